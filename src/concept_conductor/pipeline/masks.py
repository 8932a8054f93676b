"""From a layout to the masks that a run starts with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.denoiser.masks import Masks, to_latent_grid
from concept_conductor.errors import ConductorError
from concept_conductor.io.tensors import MaskLike, mask_pixels
from concept_conductor.layouts.boxes import check_boxes, check_point
from concept_conductor.layouts.layout import Layout
from concept_conductor.layouts.mask_edit import MaskEdit
from concept_conductor.method.initial_masks import GivenMasks, MasksInBoxes, MaskSource, MasksUnderPoints
from concept_conductor.method.inversion import Inverted
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Refinement


def mask_source(
    layout: Layout, concepts: int, size: tuple[int, int], latent_size: tuple[int, int], refinement: Refinement
) -> MaskSource:
    """Return where a layout's masks come from, checked.

    Args:
        layout: the layout.
        concepts: number of concepts.
        size: width and height of the run, in pixels.
        latent_size: height and width of the latent grid.
        refinement: filled; points and boxes look where refinement would end.

    Raises:
        ConductorError: another number of masks, points or boxes than of concepts, an empty mask or box, masks or
            boxes that cover each other, a point or box outside.
    """
    given = getattr(layout, layout.kind)
    if len(given) != concepts:
        raise ConductorError(
            f"the layout has {len(given)} {layout.kind} for {concepts} concepts; give one for each concept, in their "
            "order"
        )
    if layout.masks is not None:
        masks = layout.masks if layout.edit is None else layout.exact_masks()
        return GivenMasks(checked_masks(masks or (), size, latent_size))
    regions = _regions(layout, latent_size, refinement)
    return regions if layout.edit is None else EditedMasks(regions, layout.edit, layout.image.size)


def _regions(layout: Layout, latent_size: tuple[int, int], refinement: Refinement) -> MaskSource:
    """Return where the masks of points or boxes come from, which are checked."""
    width, height = layout.image.size
    if layout.boxes is not None:
        check_boxes(layout.boxes, layout.image.size)
        boxes = [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in layout.boxes]
        return MasksInBoxes(latent_size, refinement, boxes)
    assert layout.points is not None
    for point in layout.points:
        check_point(point, layout.image.size, "layout image")
    return MasksUnderPoints(latent_size, refinement, [(x / width, y / height) for x, y in layout.points])


def checked_masks(masks: Sequence[MaskLike], size: tuple[int, int], latent_size: tuple[int, int]) -> Tensor:
    """Bring users' masks to the latent grid, ``(concepts, h, w)``, boolean.

    Raises:
        ConductorError: a mask is empty there, or is wholly covered by later ones.
    """
    grid = to_latent_grid(torch.stack([mask_pixels(mask, size) for mask in masks]), latent_size)
    for index, mask in enumerate(grid):
        if not mask.any():
            raise ConductorError(
                f"mask {index + 1} is empty at the latent resolution {latent_size[1]}x{latent_size[0]}; "
                "draw the concept's area in white on black, and not too small"
            )
        later = grid[index + 1 :].any(0)
        if not (mask & ~later).any():
            raise ConductorError(
                f"mask {index + 1} is wholly covered by later masks, so its concept could not appear; draw them apart, "
                "or give the smaller one later: where masks overlap the later concept wins"
            )
    return grid


@dataclass(frozen=True)
class EditedMasks:
    """Masks of another source, edited.

    Attributes:
        source: where they come from.
        edit: in pixels of an image of
        size: width and height.
    """

    source: MaskSource
    edit: MaskEdit
    size: tuple[int, int]

    def initial(self, paths: Multipath, timesteps: Tensor, reference: Inverted | None, images: int) -> Masks:
        found = self.source.initial(paths, timesteps, reference, 1).grid
        large = F.interpolate(found.float(), self.size[::-1], mode="nearest-exact")[0].cpu().numpy() > 0.5
        pixels = torch.from_numpy(np.stack(self.edit.apply(list(large)))) * 255
        grid = to_latent_grid(pixels, (found.shape[-2], found.shape[-1])).to(found.device)
        return Masks(grid.expand(images, -1, -1, -1))
