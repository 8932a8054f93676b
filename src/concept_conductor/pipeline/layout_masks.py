"""The masks that a run would start with, without the run."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.layouts.layout import Layout
from concept_conductor.method.inversion import Progress, invert
from concept_conductor.method.multipath import multipath
from concept_conductor.pipeline.inputs import inversion_source
from concept_conductor.pipeline.masks import mask_source
from concept_conductor.settings import Refinement, SamplingSettings


@torch.no_grad()
def initial_masks(
    backbone: Backbone,
    layout: Layout,
    concepts: int,
    size: tuple[int, int],
    settings: SamplingSettings,
    progress: Progress | None = None,
) -> Tensor:
    """Find the masks of a layout's points or boxes, ``(concepts, h, w)``, boolean, on the latent grid.

    The layout is inverted as the run would invert it, so that the run finds it in the cache.

    Args:
        backbone: the model.
        layout: with points or boxes.
        concepts: number of concepts.
        size: width and height of the run in pixels.
        settings: of the run, filled.
        progress: told how far the inversion is.

    Raises:
        ConductorError: the places do not fit the layout or the number of concepts.
    """
    latent_size = (size[1] // backbone.vae_factor, size[0] // backbone.vae_factor)
    refinement: Refinement = settings.refinement or backbone.defaults.refinement
    layout = layout.fitted(size)
    found = mask_source(layout, concepts, size, latent_size, refinement)
    timesteps = backbone.timesteps(settings.steps)
    source = inversion_source(backbone, layout.image, layout.prompt, size, settings.inversion)
    with multipath(backbone, [{}], settings.paths_per_forward) as paths:
        reference = invert(paths, source, timesteps, settings.aligned_steps, settings.inversion, progress)
        return found.initial(paths, timesteps, reference, 1).grid[0].cpu()
