"""Masks inside of boxes: of the reference's regions the one that fits each box best, cut to the box."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from concept_conductor.errors import ConductorError
from concept_conductor.masks import iou

#: A box in pixels of the reference image, from its upper left corner: left, top, right, bottom.
Box = tuple[float, float, float, float]

#: Of two boxes at most this share of the smaller one may lie in the other.
MOST_SHARED = 0.5
#: A region with a smaller IoU with its box than this is not the object in the box.
LEAST_FIT = 0.25

logger = logging.getLogger(__name__)


def check_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> None:
    """Refuse boxes that are none, lie outside, or cover each other.

    Args:
        size: width and height of the image that they are given on.

    Raises:
        ConductorError: which box, and what is wrong with it.
    """
    width, height = size
    for number, (left, top, right, bottom) in enumerate(boxes, 1):
        shown = f"box {number} ({left:g}, {top:g}, {right:g}, {bottom:g})"
        if not (left < right and top < bottom):
            raise ConductorError(
                f"{shown} is empty; boxes are (left, top, right, bottom) in pixels of the layout image, left < right "
                "and top < bottom"
            )
        if left < 0 or top < 0 or right > width or bottom > height:
            raise ConductorError(
                f"{shown} reaches out of the layout image of {width}x{height} pixels; boxes are (left, top, right, "
                "bottom) from its upper left corner"
            )
    for (first, one), (second, other) in combinations(enumerate(boxes, 1), 2):
        across = min(one[2], other[2]) - max(one[0], other[0])
        down = min(one[3], other[3]) - max(one[1], other[1])
        shared = max(0.0, across) * max(0.0, down) / min(area(one), area(other))
        if shared > MOST_SHARED:
            raise ConductorError(
                f"boxes {first} and {second} share {shared:.0%} of the smaller one, but at most {MOST_SHARED:.0%} may "
                "overlap; draw them apart, or give masks instead of boxes"
            )


def area(box: Box) -> float:
    """Pixels in a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def masks_in_boxes(labels: Tensor, grid: tuple[int, int], fractions: Sequence[Box]) -> Tensor:
    """The region that fits each box best, cut to the box; the box itself, and a warning, where none fits.

    Where boxes overlap, what the earlier ones have is left to them, so that no token has two concepts.

    Args:
        labels: which region each token belongs to, ``(tokens,)``.
        grid: height and width of the tokens' grid.
        fractions: the boxes, as fractions of width and height.

    Returns:
        ``(concepts, tokens)``, boolean.

    Raises:
        ConductorError: a box holds no token, or only tokens of earlier boxes' masks.
    """
    height, width = grid
    middles_x = (torch.arange(width, device=labels.device) + 0.5) / width
    middles_y = (torch.arange(height, device=labels.device) + 0.5) / height
    regions = torch.stack([labels == label for label in labels.unique()])
    taken = torch.zeros_like(labels, dtype=torch.bool)
    masks = []
    for number, (left, top, right, bottom) in enumerate(fractions, 1):
        columns = (left <= middles_x) & (middles_x < right)
        rows = (top <= middles_y) & (middles_y < bottom)
        inside = (rows[:, None] & columns).flatten() & ~taken
        if not inside.any():
            raise ConductorError(
                f"box {number} is too small for the {width}x{height} grid on which regions are found, or is covered by "
                "earlier boxes' masks; make it larger, or give masks instead of boxes"
            )
        fits = iou(regions, inside)
        best = int(fits.argmax())
        mask = regions[best] & inside
        if fits[best] < LEAST_FIT:
            logger.warning(
                "no region of the layout image fits box %d (the best has an IoU of %.2f with it), so the whole box is "
                "its mask; draw the box closer around the object, or give a mask",
                number,
                float(fits[best]),
            )
            mask = inside
        taken = taken | mask
        masks.append(mask)
    return torch.stack(masks)
