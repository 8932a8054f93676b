"""Concept Conductor: any number of personalized concepts in one image.

The public names are loaded when first used, so that ``conductor --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from concept_conductor._deprecated import install
from concept_conductor._version import __version__

if TYPE_CHECKING:
    from concept_conductor.concepts.concept import Concept
    from concept_conductor.concepts.prompt import ConceptPrompt
    from concept_conductor.errors import BusyError, ConceptFileError, ConductorError, FamilyError
    from concept_conductor.grounding.choose import default_grounder
    from concept_conductor.grounding.grounded_sam import GroundedSam
    from concept_conductor.grounding.grounder import Grounder, Segment
    from concept_conductor.grounding.judge import JudgeGrounder
    from concept_conductor.io.images import load_image, load_layer, load_mask
    from concept_conductor.layouts.collage import Collage
    from concept_conductor.layouts.cutout import Cutout
    from concept_conductor.layouts.layout import Layout
    from concept_conductor.layouts.mask_edit import MaskEdit
    from concept_conductor.pipeline.pipeline import ConceptConductorPipeline, ConductorOutput
    from concept_conductor.pipeline.text_to_image import PlainImages
    from concept_conductor.placement.objects import Add, Replace
    from concept_conductor.placement.placement import Placement
    from concept_conductor.recipes.runner import generate
    from concept_conductor.recipes.schema.recipe import Recipe
    from concept_conductor.settings import Alignment, Injection, Inversion, Refinement
    from concept_conductor.tracing.trace import Trace

_HOMES = {
    "Add": "placement.objects",
    "Alignment": "settings",
    "BusyError": "errors",
    "Collage": "layouts.collage",
    "Concept": "concepts.concept",
    "ConceptConductorPipeline": "pipeline.pipeline",
    "ConceptFileError": "errors",
    "ConceptPrompt": "concepts.prompt",
    "ConductorError": "errors",
    "ConductorOutput": "pipeline.pipeline",
    "Cutout": "layouts.cutout",
    "FamilyError": "errors",
    "GroundedSam": "grounding.grounded_sam",
    "Grounder": "grounding.grounder",
    "Injection": "settings",
    "Inversion": "settings",
    "JudgeGrounder": "grounding.judge",
    "Layout": "layouts.layout",
    "MaskEdit": "layouts.mask_edit",
    "Placement": "placement.placement",
    "PlainImages": "pipeline.text_to_image",
    "Recipe": "recipes.schema.recipe",
    "Refinement": "settings",
    "Replace": "placement.objects",
    "Segment": "grounding.grounder",
    "Trace": "tracing.trace",
    "default_grounder": "grounding.choose",
    "generate": "recipes.runner",
    "load_image": "io.images",
    "load_layer": "io.images",
    "load_mask": "io.images",
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
    "GroundedSam",
    "Grounder",
    "Injection",
    "Inversion",
    "JudgeGrounder",
    "Layout",
    "MaskEdit",
    "Placement",
    "PlainImages",
    "Recipe",
    "Refinement",
    "Replace",
    "Segment",
    "Trace",
    "__version__",
    "default_grounder",
    "generate",
    "load_image",
    "load_layer",
    "load_mask",
]


install()
# a hint that tells nobody anything: images are prepared with Pillow, with torchvision or without
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision (not installed)" not in record.getMessage()
)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
