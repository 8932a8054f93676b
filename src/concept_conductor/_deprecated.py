"""Old public names, kept for one release: each warns and says the new name."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PACKAGE = "concept_conductor"

#: Old module -> old name -> where the new one is, both below the package.
MODULES: Mapping[str, Mapping[str, str]] = {
    "evaluation.grounding": {
        "GroundedSam": "grounding.grounded_sam.GroundedSam",
        "Grounder": "grounding.grounder.Grounder",
        "JudgeGrounder": "grounding.judge.JudgeGrounder",
        "Segment": "grounding.grounder.Segment",
        "default_grounder": "grounding.choose.default_grounder",
    },
    "evaluation.methods": {
        "Method": "evaluation.benchmark.methods.Method",
        "register_method": "evaluation.benchmark.methods.register_method",
    },
    "evaluation.scoring": {
        "Instruments": "evaluation.metrics.instruments.Instruments",
        "Item": "evaluation.metrics.items.Item",
        "Metric": "evaluation.metrics.registry.Metric",
        "Observation": "evaluation.metrics.observed_image.ObservedImage",
        "Row": "evaluation.metrics.observed_image.Row",
        "Subject": "evaluation.metrics.items.ConceptReference",
        "register_metric": "evaluation.metrics.registry.register_metric",
        "score_images": "evaluation.metrics.scoring.score_images",
    },
    "images": {
        "load_image": "io.images.load_image",
        "load_layer": "io.images.load_layer",
        "load_mask": "io.images.load_mask",
    },
    "layout": {"Layout": "layouts.layout.Layout"},
    "layouts.edits": {"MaskEdit": "layouts.mask_edit.MaskEdit"},
    "prompts": {"ConceptPrompt": "concepts.prompt.ConceptPrompt"},
    "recipe": {"Recipe": "recipes.schema.recipe.Recipe"},
}


def warn(old: str, new: str, stacklevel: int = 3) -> None:
    """Say that ``old`` is deprecated and what to use."""
    warnings.warn(
        f"{old} is deprecated and will go in the next release; use {new}", DeprecationWarning, stacklevel=stacklevel
    )


def names(module: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that finds its old ``homes`` (name -> new place below the package)."""

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, _, new = homes[name].rpartition(".")
        warn(f"{module}.{name}", f"{PACKAGE}.{place}.{new}")
        return getattr(importlib.import_module(f"{PACKAGE}.{place}"), new)

    return find


class OldModules:
    """Finds the modules that :data:`MODULES` lists, for Python's import system."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if package != PACKAGE or module not in MODULES:
            return None
        return ModuleSpec(name, self)  # type: ignore[arg-type]  # all that the import system calls is below

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        homes = MODULES[module.__name__.removeprefix(f"{PACKAGE}.")]
        module.__getattr__ = names(module.__name__, homes)  # type: ignore[method-assign]


def install() -> None:
    """Let old modules be imported, once."""
    if not any(isinstance(finder, OldModules) for finder in sys.meta_path):
        sys.meta_path.append(OldModules())  # last: real modules come first
