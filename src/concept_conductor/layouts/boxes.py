"""Masks inside of boxes: what of the reference's regions lies mostly in each box."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import combinations

from concept_conductor.errors import ConductorError

#: A box in pixels of the reference image, from its upper left corner: left, top, right, bottom.
Box = tuple[float, float, float, float]

#: Of two boxes at most this share of the smaller one may lie in the other.
MOST_SHARED = 0.5


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
        smaller = max(min(area(one), area(other)), sys.float_info.min)  # the area of a tiny box may round to 0
        shared = max(0.0, across) * max(0.0, down) / smaller
        if shared > MOST_SHARED:
            raise ConductorError(
                f"boxes {first} and {second} share {shared:.0%} of the smaller one, but at most {MOST_SHARED:.0%} may "
                "overlap; draw them apart, or give masks instead of boxes"
            )


def area(box: Box) -> float:
    """Pixels in a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


#: A point in pixels of the reference image, from its upper left corner; or as fractions of width and height.
Point = tuple[float, float]
