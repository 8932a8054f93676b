"""model"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.settings import SamplingSettings


def load_pipeline(model: Path | str, recipe: Recipe) -> ConceptConductorPipeline:
    """Load a model on the recipe's device.

    Raises:
        ConductorError: it cannot be loaded, or there is no such device.
    """
    device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise recipe.error(("device",), "there is no CUDA device here; set 'device: auto' or 'device: cpu'")
    dtype = number_type(recipe, device)
    pipe = load_model(model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    if recipe.vae_tiling:
        pipe.enable_vae_tiling()
    if recipe.offload and device != "cpu":
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)


def number_type(recipe: Recipe, device: str) -> torch.dtype:
    """What a recipe's model is loaded in."""
    dtype = recipe.dtype
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    found: torch.dtype = getattr(torch, dtype)
    return found


def as_used(recipe: Recipe, pipe: ConceptConductorPipeline, concepts: list[ConceptPrompt]) -> Recipe:
    """The recipe with nothing left to defaults, which may be others elsewhere or later."""
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
    """Width and height of a recipe's images by this model.

    Raises:
        ConductorError: the model cannot make that size; the sentence names file, line and field.
    """
    try:
        return image_size(backbone, recipe.width, recipe.height)
    except ConductorError as error:
        raise recipe.error(("width",) if recipe.width is not None else ("height",), str(error)) from error


def misfits(recipe: Recipe, backbone: Backbone, concepts: Sequence[ConceptPrompt]) -> Iterator[ConductorError]:
    """What is wrong with each concept that does not belong to the model, with the recipe's line and field."""
    for index, entry in enumerate(concepts):
        try:
            backbone.check(entry.concept)
        except ConductorError as error:
            misfit = recipe.error(("concepts", index, "file"), str(error))
            misfit.__cause__ = error
            yield misfit


def check_fit(recipe: Recipe, backbone: Backbone, concepts: Sequence[ConceptPrompt], layout: Layout | None) -> None:
    """Look, before anything long begins, whether the layout suits the concepts.

    Args:
        backbone: the recipe's model, whose weights are not looked at.

    Raises:
        ConductorError: they do not; the sentence names file, line and field.
    """
    if layout is None or not concepts:
        return
    width, height = size_of(recipe, backbone)
    grid = (height // backbone.vae_factor, width // backbone.vae_factor)
    refinement = recipe.refinement or backbone.defaults.refinement
    try:
        mask_source(layout, len(concepts), (width, height), grid, refinement)
    except ConductorError as error:
        place = ("placement", "objects") if recipe.layout is None else ("layout", recipe.layout.kind)
        raise recipe.error(place, str(error)) from error


def settings_of(recipe: Recipe, defaults: Defaults) -> SamplingSettings:
    """A recipe's settings on a model with these defaults."""
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
