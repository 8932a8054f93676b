"""What concepts take the place of in an image: objects that are there, and cut-outs pasted in; and where each is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.tensors import MaskLike, open_mask
from concept_conductor.layouts.boxes import MOST_SHARED, Box, Point, check_boxes, check_point
from concept_conductor.layouts.cutout import Cutout
from concept_conductor.layouts.mask_edit import LONGEST, grown, resized
from concept_conductor.layouts.masks import turn_with
from concept_conductor.layouts.phrases import masks_of_words


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
        """Return whether the user drew the area that may change, and named no object, whose outline is found."""
        return self.mask is not None or self.box is not None


@dataclass(frozen=True)
class Add:
    """An object that the image has not got; where neither a box nor a point is given, the cut-out's own position holds.

    Attributes:
        cutout: the concept's own image, cut out.
        box: ``(left, top, right, bottom)`` in pixels of the image: the cut-out stands in it, as large as it fits; or
        point: ``(x, y)`` in pixels of the image, where the cut-out's middle comes to lie.
        size: its longer side in pixels of the image, with ``point``; None for the cut-out's own scale.
    """

    cutout: Cutout
    box: Box | None = None
    point: Point | None = None
    size: float | None = None

    def __post_init__(self) -> None:
        if self.box is not None and self.point is not None:
            raise ConductorError("an object to add stands either in a box= or at a point=, but both were given")
        if self.size is not None and (self.point is None or not self.size > 0):
            raise ConductorError(
                f"size= is the longer side, in pixels, of an object to add at a point=; expected more than 0 and a "
                f"point, but it is {self.size:g} at {self.point}"
            )

    def placed(self, size: tuple[int, int]) -> Cutout:
        """Return the cut-out where it comes to lie in an image of ``size`` (width, height).

        Raises:
            ConductorError: the box or the point lies outside.
        """
        cutout = replace(self.cutout, scenery=False)  # a concept takes its place
        if self.box is not None:
            check_boxes([self.box], size)
            return cutout.fitted(self.box)
        if self.point is None:
            return cutout
        check_point(self.point, size)
        if self.size is None:
            return replace(cutout, position=self.point)
        longer = max(replace(cutout, scale=1.0).drawn().size)
        return replace(cutout, position=self.point, scale=self.size / longer)


def masks_of_objects(
    image: Image.Image, objects: Sequence[Replace], grounder: Grounder | None
) -> list[NDArray[np.bool_]]:
    """Return where each of the objects is, ``(h, w)``, boolean, of the image's size.

    Args:
        image: RGB.
        objects: which.
        grounder: finds what words name and what lies under points.

    Raises:
        ConductorError: an object that is not there, or lies outside.
    """
    words = {number: one.words for number, one in enumerate(objects) if one.words is not None}
    points = {number: one.point for number, one in enumerate(objects) if one.point is not None}
    masks: dict[int, NDArray[np.bool_]] = {}
    if words or points:
        if grounder is None:
            raise ConductorError(
                "objects given by words= or point= are looked for with a grounder; give grounder=JudgeGrounder() for "
                "mini, GroundedSam() else, or mask= or box="
            )
        masks |= zip(words, masks_of_words(image, list(words.values()), grounder))
        masks |= zip(points, masks_under(image, list(points.values()), grounder))
    for number, one in enumerate(objects):
        if one.box is not None:
            masks[number] = mask_of_box(one.box, image.size)
        elif one.mask is not None:
            masks[number] = drawn_mask(one.mask, image, f"mask {number + 1}")
    return [masks[number] for number in range(len(objects))]


def masks_under(image: Image.Image, points: Sequence[Point], grounder: Grounder) -> list[NDArray[np.bool_]]:
    """Return the object under each of the points, ``(h, w)``, boolean.

    Raises:
        ConductorError: a point lies outside of the image, or on nothing.
    """
    for point in points:
        check_point(point, image.size)
    masks = grounder.under(image, points)
    for (x, y), mask in zip(points, masks, strict=True):
        if not mask.any():
            raise ConductorError(
                f"no object was found under the point ({x:g}, {y:g}); move it onto the object's middle, or give a "
                "mask, a box or words"
            )
    return masks


def mask_of_box(box: Box, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return all pixels that a box touches, ``(h, w)``, boolean.

    Raises:
        ConductorError: the box is empty, or reaches out of the image of that size (width, height).
    """
    check_boxes([box], size)
    left, top, right, bottom = box
    mask = np.zeros(size[::-1], dtype=bool)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
    return mask


def drawn_mask(mask: MaskLike, image: Image.Image, name: str) -> NDArray[np.bool_]:
    """Return a user's mask ``(h, w)``, boolean, checked.

    Args:
        mask: as the user has it.
        image: what it was drawn on.
        name: for messages.

    Raises:
        ConductorError: it is of another size, or empty.
    """
    drawn = turn_with(open_mask(mask, name), image)
    if drawn.size != image.size:
        raise ConductorError(
            f"{name} has {drawn.width}x{drawn.height} pixels, but the image {image.width}x{image.height}; draw it on "
            "the image itself, white on black"
        )
    inside: NDArray[np.bool_] = np.asarray(drawn) > 127
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


def widened(mask: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """Return all that lies at most ``reach`` pixels from the mask; large ones are widened at a smaller size."""
    share = min(1.0, LONGEST / max(mask.shape))
    small = resized(mask, tuple(max(1, round(side * share)) for side in mask.shape))
    return resized(grown(small, reach * share), mask.shape) | mask
