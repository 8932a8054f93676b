"""A recipe's layout and masks, with no more made than they need."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.meta import MetaModel
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.errors import ConductorError
from concept_conductor.layouts.layout import Layout
from concept_conductor.pipeline.layout_masks import initial_masks
from concept_conductor.recipes.files import locate_model, located_files
from concept_conductor.recipes.load_inputs import load_inputs
from concept_conductor.recipes.model import fit_layout, settings_of
from concept_conductor.recipes.schema.recipe import Recipe


class LayoutPreview(NamedTuple):
    """A layout as a run would start with it.

    Attributes:
        layout: opened, or generated.
        masks: ``(h, w)`` each; exact ones at its image's size, found ones on the latent grid.
        names: of the concepts, else of cut-outs, else numbers.
    """

    layout: Layout
    masks: Sequence[NDArray[np.bool_]]
    names: Sequence[str]


def preview_layout(recipe: Recipe) -> LayoutPreview:
    """Open a recipe's layout; the model is loaded only where it has to generate it, or to find its regions.

    Raises:
        ConductorError: anything that does not fit, with a run's own sentence, or there is no layout.
    """
    if recipe.layout is not None and recipe.layout.places()[0] == 0:
        raise recipe.error(
            ("layout", recipe.layout.kind), "it is empty, so there is nothing to show; give one at least"
        )
    inputs = load_inputs(recipe, located_files(recipe))
    layout, concepts = inputs.layout, inputs.concepts
    if layout is None:
        raise ConductorError(f"{recipe.source}: there is no layout to show; give the recipe a 'layout'")
    with recipe.blaming("layout"):
        masks: Sequence[NDArray[np.bool_]] | None = layout.exact_masks()
    if masks is not None and not inputs.model.loaded:
        outline = _outline(recipe) if concepts else None
        if outline is not None:
            layout = fit_layout(recipe, outline, concepts, layout) or layout
            masks = layout.exact_masks() or ()
        return LayoutPreview(layout, masks, _names(recipe, concepts, len(masks)))
    used, pipe = inputs.recipe, inputs.model.pipe
    layout = fit_layout(used, pipe.backbone, concepts, layout) or layout
    masks = layout.exact_masks()
    if masks is None:
        count = len(getattr(layout, layout.kind))
        assert used.width is not None and used.height is not None  # as_used filled them
        settings = settings_of(used, pipe.defaults)
        masks = list(initial_masks(pipe.backbone, layout, count, (used.width, used.height), settings).numpy())
    return LayoutPreview(layout, masks, _names(recipe, concepts, len(masks)))


def _outline(recipe: Recipe) -> Backbone | None:
    """Read the recipe's model without weights; None where it is no folder here, which a preview does without."""
    with suppress(ConductorError):
        model = locate_model(recipe.model, recipe.folder)
        if isinstance(model, Path) and model.is_dir():
            return MetaModel.read(model).backbone(torch.float32)
    return None


def _names(recipe: Recipe, concepts: Sequence[ConceptPrompt], count: int) -> list[str]:
    known = [entry.concept.name for entry in concepts]
    if not known and recipe.layout is not None and recipe.layout.collage is not None:
        known = [Path(cutout.image).stem for cutout in recipe.layout.collage.cutouts if not cutout.scenery]
    return [known[index] if index < len(known) else str(index + 1) for index in range(count)]
