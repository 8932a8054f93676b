"""A recipe's model: loaded when it is first needed, with the recipe's settings as they will be used on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.defaults import Defaults
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.errors import ConductorError
from concept_conductor.layouts.layout import Layout
from concept_conductor.pipeline.inputs import image_size, resolve_settings
from concept_conductor.pipeline.masks import mask_source
from concept_conductor.pipeline.pipeline import ConceptConductorPipeline, load_model
from concept_conductor.recipes.files import locate_model, model_sha256
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.recipes.section import Section
from concept_conductor.settings import SamplingSettings


class RecipeModel:
    """The model of a recipe, which is loaded when ``pipe`` or ``recipe`` is first asked for.

    Args:
        section: the recipe, with its located files.
        concepts: the recipe's; checked against the model as soon as it is there.
        pipe: a loaded pipeline to use instead.
    """

    def __init__(
        self, section: Section, concepts: Sequence[ConceptPrompt] = (), pipe: ConceptConductorPipeline | None = None
    ) -> None:
        self.section, self.concepts, self._given = section, concepts, pipe

    @property
    def loaded(self) -> bool:
        """Tell whether it is loaded."""
        return self._given is not None or "pipe" in self.__dict__

    @cached_property
    def pipe(self) -> ConceptConductorPipeline:
        """Load it.

        Raises:
            RecipeError: it cannot be loaded, or a concept does not belong to it.
        """
        pipe = self._given
        if pipe is None:
            with self.section.recipe.blaming("model"):
                where = self.section.model()
                fetch = self.section.may_fetch(self.section.recipe.model, str(where))
                pipe = load_pipeline(where, self.section.recipe, fetch=fetch)
        if misfit := next(misfits(self.section.recipe, pipe.backbone, self.concepts), None):
            raise misfit
        return pipe

    @cached_property
    def recipe(self) -> Recipe:
        """Load it, and return the recipe with every setting filled as it will be used.

        Raises:
            RecipeError: as for ``pipe``, or the model cannot make images of that size.
        """
        return as_used(self.section.recipe, self.pipe, self.concepts)

    def sha256(self) -> str | None:
        """Return the SHA-256 of its files, or None for a model that is only in memory; load it first."""
        where = self.section.located.get(("model",))
        if where is None and self._given is None:
            where = self.section.model()
        if isinstance(where, str):  # a hub's, which is on this machine by now
            where = locate_model(where, self.section.recipe.folder)
        return model_sha256(where) if isinstance(where, Path) else None


def load_pipeline(model: Path | str, recipe: Recipe, *, fetch: bool = True) -> ConceptConductorPipeline:
    """Load a model on the recipe's device.

    Args:
        model: a folder or checkpoint file, or a hub id.
        recipe: decides device, numbers and what is saved of memory.
        fetch: let the hub be asked for what is not here; False for what strangers name.

    Raises:
        ConductorError: it cannot be loaded, or there is no such device.
    """
    with recipe.blaming("device"):
        device = available_device(recipe.device)
    options: dict[str, Any] = {} if fetch else {"local_files_only": True}
    options |= {"torch_dtype": number_type(recipe, device), "prediction_type": recipe.prediction_type}
    pipe = load_model(model, **options)
    pipe.set_progress_bar_config(disable=True)
    if recipe.vae_tiling:
        pipe.enable_vae_tiling()
    if recipe.offload and device != "cpu":
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)


def available_device(name: str) -> str:
    """Return the device that a recipe means.

    Raises:
        ConductorError: this machine has none of that kind, or not so many.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConductorError("there is no CUDA device here; set 'device: auto' or 'device: cpu'")
    if number and int(number) >= (count := torch.cuda.device_count()):
        raise ConductorError(f"there is no device '{name}' here, where {count} are counted from cuda:0; choose another")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConductorError("there is no MPS device here (Apple's GPUs); set 'device: auto' or 'device: cpu'")
    return name


def number_type(recipe: Recipe, device: str) -> torch.dtype:
    """Return what a recipe's model is loaded in."""
    dtype = recipe.dtype
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    found: torch.dtype = getattr(torch, dtype)
    return found


def as_used(recipe: Recipe, pipe: ConceptConductorPipeline, concepts: Sequence[ConceptPrompt]) -> Recipe:
    """Return the recipe with nothing left to defaults, which may be others elsewhere or later."""
    settings = settings_of(recipe, pipe.defaults)
    entries = [
        entry.model_copy(update={"weight": float(prompt.weight)})
        for entry, prompt in zip(recipe.concepts, concepts, strict=True)
    ]
    changes: dict[str, Any] = {name: getattr(settings, name) for name in type(settings).model_fields}
    if isinstance(cache := settings.inversion.cache, Path):
        changes["inversion"] = settings.inversion.model_copy(update={"cache": recipe.folder / cache})
    width, height = size_of(recipe, pipe.backbone)
    changes |= {"concepts": tuple(entries), "width": width, "height": height}
    changes |= {"dtype": str(pipe.dtype).removeprefix("torch."), "device": pipe.backbone.device.type}
    return recipe.model_copy(update=changes)


def size_of(recipe: Recipe, backbone: Backbone) -> tuple[int, int]:
    """Return width and height of a recipe's images by this model.

    Raises:
        ConductorError: the model cannot make that size; the sentence names file, line and field.
    """
    with recipe.blaming("width" if recipe.width is not None else "height"):
        return image_size(backbone, recipe.width, recipe.height)


def misfits(recipe: Recipe, backbone: Backbone, concepts: Sequence[ConceptPrompt]) -> Iterator[ConductorError]:
    """Yield what is wrong with each concept that does not belong to the model, with the recipe's line and field."""
    for index, entry in enumerate(concepts):
        try:
            backbone.check(entry.concept)
        except ConductorError as error:
            misfit = recipe.error(("concepts", index, "file"), str(error))
            misfit.__cause__ = error
            yield misfit


def fit_layout(
    recipe: Recipe, backbone: Backbone, concepts: Sequence[ConceptPrompt], layout: Layout | None
) -> Layout | None:
    """Bring the layout to the run's proportions, and check, before anything long begins, that it suits the concepts.

    Args:
        backbone: the recipe's model, whose weights are not looked at.

    Raises:
        ConductorError: it does not; the sentence names file, line and field.
    """
    if layout is None:
        return None
    width, height = size_of(recipe, backbone)
    grid = (height // backbone.vae_factor, width // backbone.vae_factor)
    refinement = recipe.refinement or backbone.defaults.refinement
    place = ("placement", "objects") if recipe.layout is None else ("layout", recipe.layout.kind)
    with recipe.blaming(*place):
        layout = layout.fitted((width, height))
        if concepts:
            mask_source(layout, len(concepts), (width, height), grid, refinement)
    return layout


def settings_of(recipe: Recipe, defaults: Defaults) -> SamplingSettings:
    """Return a recipe's settings on a model with these defaults."""
    usual = SamplingSettings()
    return resolve_settings(
        defaults,
        steps=recipe.steps or usual.steps,
        guidance_scale=recipe.guidance_scale,
        alignment=recipe.alignment,
        injection=recipe.injection,
        refinement=recipe.refinement,
        inversion=recipe.inversion,
        paths_per_forward=recipe.paths_per_forward,
    )
