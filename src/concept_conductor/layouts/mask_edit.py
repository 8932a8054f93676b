"""Masks grown, smoothed and filled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from pydantic import Field
from scipy import ndimage

from concept_conductor.errors import ConductorError
from concept_conductor.io.drawing import mask_as_image
from concept_conductor.settings import Settings

LONGEST = 1024
"""Masks of images that are longer are edited at this size, with distances to match."""

Mask = NDArray[np.bool_]


class MaskEdit(Settings):
    """What is done to every mask of a layout, in this order. Distances are in pixels of the layout's image.

    Attributes:
        fill: close holes: what a mask encloses becomes part of it.
        smooth: round its outline with this radius; specks and cracks much smaller than it vanish.
        grow: move its outline outwards by so much, or inwards where negative.
    """

    fill: bool = False
    smooth: Annotated[float, Field(ge=0, le=1000)] = 0.0
    grow: Annotated[float, Field(ge=-1000, le=1000)] = 0.0

    def apply(self, masks: Sequence[Mask]) -> list[Mask]:
        """Return the edited masks; no mask grows into what was another's.

        Args:
            masks: ``(h, w)`` each, of one size, that of the layout's image.

        Raises:
            ConductorError: nothing of a mask is left.
        """
        if not masks:
            return []
        full = masks[0].shape
        share = min(1.0, LONGEST / max(full))
        size = (max(1, round(full[0] * share)), max(1, round(full[1] * share)))
        edited = []
        for number, mask in enumerate(masks, 1):
            result = resized(mask, size)
            result = filled(result) if self.fill else result
            result = smoothed(result, self.smooth * share)
            result = grown(result, self.grow * share)
            if not result.any():
                raise ConductorError(f"nothing is left of mask {number} after its edit; grow or smooth it less")
            edited.append(resized(result, full))
        taken = np.sum(masks, 0, dtype=np.uint8)
        return [new & ((taken - mask) == 0) | (new & mask) for new, mask in zip(edited, masks)]


def resized(mask: Mask, size: tuple[int, ...]) -> Mask:
    """Return a mask at another height and width, by its nearest pixels."""
    if mask.shape == size:
        return mask
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))


def filled(mask: Mask) -> Mask:
    """Return the mask with its holes: all that cannot be reached from the image's edge without crossing it."""
    holes: Mask = ndimage.binary_fill_holes(mask)
    return holes


def smoothed(mask: Mask, radius: float) -> Mask:
    """Return the mask with its outline rounded: blurred, and cut at one half."""
    if radius <= 0:
        return mask
    # what lies beyond the image's edge is taken to be as the edge is
    border = math.ceil(3 * radius)
    padded = mask_as_image(np.pad(mask, border, mode="edge"))
    blurred = np.asarray(padded.filter(ImageFilter.GaussianBlur(radius)))
    return blurred[border:-border, border:-border] >= 128


def grown(mask: Mask, distance: float) -> Mask:
    """Return all pixels within ``distance`` of the mask; a negative one leaves those farther from its outside.

    Distances are Euclidean, from pixel middle to pixel middle. Beyond the image's edge there is neither.
    """
    if distance < 0:
        return ~grown(~mask, -distance)
    if not mask.any():
        return mask  # SciPy measures to nothing from no mask
    within: Mask = ndimage.distance_transform_edt(~mask) <= distance
    return within
