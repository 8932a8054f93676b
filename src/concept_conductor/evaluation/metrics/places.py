"""Where concepts belong in an image, as its layout says, and what stands there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.segsim import assigned
from concept_conductor.io.images import load_mask
from concept_conductor.io.tensors import mask_iou
from concept_conductor.layouts.boxes import Box

#: A file with a mask, white inside, or a box in fractions of the image's width and height.
Region = Path | Box

INSIDE = 0.5
"""An object stands in a place if they share at least this much of the smaller of the two."""


def place_mask(place: Region, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw a place as a mask ``(h, w)`` of an image.

    Args:
        place: of one concept.
        size: width and height of the image.

    Raises:
        ConductorError: its file is no image, or the place is empty at this size.
    """
    if isinstance(place, Path):
        mask = np.asarray(load_mask(place).resize(size)) > 127
    else:
        rows, columns = ((np.arange(side) + 0.5) / side for side in size[::-1])
        left, top, right, bottom = place
        mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    if not mask.any():
        raise ConductorError(f"the place '{place}' is empty in an image of {size[0]}x{size[1]} pixels; draw it larger")
    return mask


def standing(places: Sequence[NDArray[np.bool_]], objects: Sequence[NDArray[np.bool_]]) -> list[int | None]:
    """Return which object stands in each place: no object in two, and the sum of their IoU is greatest.

    Args:
        places: masks ``(h, w)``.
        objects: masks of the same size.

    Returns:
        For each place the index of its object; None where none shares enough with it (``INSIDE``).
    """
    gains = np.zeros((len(places), len(objects)))
    for gain, place in zip(gains, places):
        for index, thing in enumerate(objects):
            if (place & thing).sum() >= INSIDE * min(place.sum(), thing.sum()):
                gain[index] = mask_iou(place, thing)
    return assigned(gains)
