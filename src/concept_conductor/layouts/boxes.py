"""Boxes and points that say where things are in an image, and whether they can be."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import combinations

from concept_conductor.errors import ConductorError

#: A box in pixels of an image, from its upper left corner: left, top, right, bottom.
Box = tuple[float, float, float, float]

#: A point in pixels of an image, from its upper left corner: x, y.
Point = tuple[float, float]

#: Of two boxes at most this share of the smaller one may lie in the other.
MOST_SHARED = 0.5


def check_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> None:
    """Refuse boxes that are none, lie outside, or cover each other.

    Args:
        boxes: left, top, right, bottom in pixels.
        size: width and height of the image that they are given on.

    Raises:
        ConductorError: which box, and what is wrong with it.
    """
    check_numbers(boxes, "box", "(left, top, right, bottom)", 4)
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


def check_point(point: Point, size: tuple[int, int], image: str = "image") -> None:
    """Refuse a point outside of an image.

    Args:
        point: x, y in pixels.
        size: width and height of the image that it is given on.
        image: which one, for messages.

    Raises:
        ConductorError: it lies outside, or is no point.
    """
    check_numbers([point], "point", "(x, y)", 2)
    (x, y), (width, height) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise ConductorError(
            f"the point ({x:g}, {y:g}) lies outside of the {image} of {width}x{height} pixels; points are (x, y) from "
            "its upper left corner"
        )


def check_numbers(places: Sequence[Sequence[float]], name: str, form: str, count: int) -> None:
    """Refuse places that are not ``count`` finite numbers each.

    Args:
        places: points or boxes.
        name, form: what each is, for messages: "point", "(x, y)".
        count: numbers of each.

    Raises:
        ConductorError: which place, and what it is.
    """
    for number, place in enumerate(places, 1):
        try:
            fine = len(place) == count and all(math.isfinite(value) for value in place)
        except (TypeError, ValueError, OverflowError):  # no sequence, text in it, or an integer beyond all floats
            fine = False
        if not fine:
            raise ConductorError(f"{name} {number} must be {form} in finite numbers, but it is {str(place)[:60]}")


def area(box: Box) -> float:
    """Return how many pixels a box holds."""
    return (box[2] - box[0]) * (box[3] - box[1])
