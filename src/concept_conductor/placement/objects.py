"""The objects of an image that concepts take the place of, and where each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.layout import MaskLike, Point, mask_pixels
from concept_conductor.layouts.boxes import MOST_SHARED, Box, check_boxes
from concept_conductor.layouts.words import masks_of_words

if TYPE_CHECKING:
    from concept_conductor.evaluation.grounding import Grounder


@dataclass(frozen=True)
class Replace:
    """An object of the image that a concept takes the place of; exactly one of the four says which.

    Attributes:
        mask: the area that may change, white on black, of the image's own size; or
        words: what it is, "a dog" or "a dog on the right"; or
        point: ``(x, y)`` on it, in pixels of the image from its upper left corner; or
        box: ``(left, top, right, bottom)`` in pixels of the image, all of which may change.
    """

    mask: MaskLike | None = None
    words: str | None = None
    point: Point | None = None
    box: Box | None = None

    def __post_init__(self) -> None:
        if sum(place is not None for place in (self.mask, self.words, self.point, self.box)) != 1:
            raise ConductorError(
                "an object to replace needs either mask= or words= or point= or box=, exactly one of the four"
            )

    @property
    def drawn(self) -> bool:
        """Whether the user drew the area that may change, rather than named an object, whose outline is found."""
        return self.mask is not None or self.box is not None


def masks_of_objects(
    image: Image.Image, objects: Sequence[Replace], grounder: Grounder | None
) -> list[NDArray[np.bool_]]:
    """Where each of the objects is, ``(h, w)``, boolean, of the image's size.

    Args:
        image: RGB.
        grounder: finds what words name and what lies under points.

    Raises:
        ConductorError: an object that is not there, lies outside, or covers another.
    """
    if not objects:
        raise ConductorError("there is nothing to place; give an object for each concept, in the concepts' order")
    if grounder is None and any(one.words is not None or one.point is not None for one in objects):
        raise ConductorError(
            "objects given by words= or point= are looked for with a grounder; give grounder=JudgeGrounder() for mini, "
            "GroundedSam() else, or mask= or box="
        )
    masks: dict[int, NDArray[np.bool_]] = {}
    if words := {number: one.words for number, one in enumerate(objects) if one.words is not None}:
        assert grounder is not None
        masks |= zip(words, masks_of_words(image, list(words.values()), grounder))
    if points := {number: one.point for number, one in enumerate(objects) if one.point is not None}:
        assert grounder is not None
        masks |= zip(points, masks_under(image, list(points.values()), grounder))
    for number, one in enumerate(objects):
        if one.box is not None:
            masks[number] = mask_of_box(one.box, image.size)
        elif one.mask is not None:
            masks[number] = drawn_mask(one.mask, image.size, f"the mask of object {number + 1}")
    found = [masks[number] for number in range(len(objects))]
    check_apart(found)
    return found


def masks_under(image: Image.Image, points: Sequence[Point], grounder: Grounder) -> list[NDArray[np.bool_]]:
    """The object under each of the points.

    Raises:
        ConductorError: a point lies outside of the image, or on nothing.
    """
    width, height = image.size
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ConductorError(
                f"the point ({x:g}, {y:g}) lies outside of the image of {width}x{height} pixels; points are (x, y) "
                "from its upper left corner"
            )
    masks = grounder.under(image, points)
    for (x, y), mask in zip(points, masks, strict=True):
        if not mask.any():
            raise ConductorError(
                f"no object was found under the point ({x:g}, {y:g}); move it onto the object's middle, or give a "
                "mask, a box or words"
            )
    return masks


def mask_of_box(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """All pixels that a box touches.

    Raises:
        ConductorError: the box is empty, or reaches out of the image of that size (width, height).
    """
    check_boxes([box], size)
    left, top, right, bottom = box
    mask = np.zeros(size[::-1], dtype=bool)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return mask


def drawn_mask(mask: MaskLike, size: tuple[int, int], name: str) -> NDArray[np.bool_]:
    """A user's mask, checked.

    Args:
        size: width and height of the image that it was drawn on.
        name: for messages.

    Raises:
        ConductorError: it is of another size, or empty.
    """
    came = mask.size if isinstance(mask, Image.Image) else tuple(mask.shape[::-1])
    if came != size:
        raise ConductorError(
            f"{name} is of {'x'.join(map(str, came))} pixels, but the image has {size[0]}x{size[1]}; draw it on the "
            "image itself, white on black"
        )
    inside: NDArray[np.bool_] = mask_pixels(mask, size).numpy() > 127
    if not inside.any():
        raise ConductorError(f"{name} is empty; draw the area that may change in white on black")
    return inside


def check_apart(masks: Sequence[NDArray[np.bool_]]) -> None:
    """Refuse objects that are one and the same.

    Raises:
        ConductorError: two masks share more than half of the smaller one.
    """
    for (first, one), (second, other) in combinations(enumerate(masks, 1), 2):
        shared = (one & other).sum() / min(one.sum(), other.sum())
        if shared > MOST_SHARED:
            raise ConductorError(
                f"objects {first} and {second} share {shared:.0%} of the smaller one, but at most {MOST_SHARED:.0%} "
                "may overlap; choose objects that stand apart"
            )


def grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """The mask and all that lies at most ``reach`` pixels beside it, to the eight sides."""
    for axis in (0, 1):
        pad = [(0, 0), (0, 0)]
        pad[axis] = (reach + 1, reach)
        counts = np.cumsum(np.pad(mask, pad), axis, dtype=np.int32)
        ahead, behind = (np.take(counts, range(at, at + mask.shape[axis]), axis) for at in (2 * reach + 1, 0))
        mask = ahead > behind
    return mask
