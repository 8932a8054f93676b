"""Concept Conductor: any number of personalized concepts in one picture.

The public names are loaded when first used, so that ``conductor --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concept_conductor.concepts.concept import Concept
    from concept_conductor.errors import BusyError, ConceptFileError, ConductorError, FamilyError
    from concept_conductor.layout import Layout
    from concept_conductor.layouts.collage import Collage
    from concept_conductor.layouts.cutouts import Cutout
    from concept_conductor.pipeline import ConceptConductorPipeline, ConductorOutput
    from concept_conductor.placement import Add, Placement, Replace
    from concept_conductor.prompts import ConceptPrompt
    from concept_conductor.settings import Alignment, Injection, Inversion, Refinement
    from concept_conductor.tracing.trace import Trace

__version__ = "0.1.0"

_HOMES = {
    "Add": "placement",
    "Alignment": "settings",
    "BusyError": "errors",
    "Collage": "layouts.collage",
    "Concept": "concepts.concept",
    "ConceptConductorPipeline": "pipeline",
    "ConceptFileError": "errors",
    "ConceptPrompt": "prompts",
    "ConductorError": "errors",
    "ConductorOutput": "pipeline",
    "Cutout": "layouts.cutouts",
    "FamilyError": "errors",
    "Injection": "settings",
    "Inversion": "settings",
    "Layout": "layout",
    "Placement": "placement",
    "Refinement": "settings",
    "Replace": "placement",
    "Trace": "tracing.trace",
}

__all__ = [
    "Add",
    "Alignment",
    "BusyError",
    "Collage",
    "Concept",
    "ConceptConductorPipeline",
    "ConceptFileError",
    "ConceptPrompt",
    "ConductorError",
    "ConductorOutput",
    "Cutout",
    "FamilyError",
    "Injection",
    "Inversion",
    "Layout",
    "Placement",
    "Refinement",
    "Replace",
    "Trace",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
