"""Masks from words: what they name is found in the layout image, one object for each concept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Explaining, Grounder, Segment
from concept_conductor.io.tensors import mask_iou
from concept_conductor.layouts.boxes import Box, check_boxes

SIDE = re.compile(r"(.+?),?\s+(?:on|to|at) the (left|right)", re.IGNORECASE)
"""Words that say which of several objects they mean."""

LEAST_INSIDE = 0.5
"""Of an object in a box at least this share lies in it."""


def masks_of_words(image: Image.Image, words: Sequence[str], grounder: Grounder) -> list[NDArray[np.bool_]]:
    """Return a mask for each of ``words``, each of another object.

    Where the same words stand several times they mean the surest objects from left to right; "a dog on the right" is
    the rightmost dog.

    Args:
        image: the layout image, RGB.
        words: "a dog", one for each concept in the concepts' order.
        grounder: finds objects.

    Returns:
        Masks ``(h, w)``, boolean.

    Raises:
        ConductorError: words name nothing, or fewer objects are there than words for them.
    """
    search = Search(words)
    found = search.look(image, grounder)
    for noun, count in search.counts.items():
        if len(found[noun]) < count:
            times = {0: "not found", 1: "found once"}.get(len(found[noun]), f"found {len(found[noun])} times")
            wanted = "once" if count == 1 else f"{count} times"
            raise ConductorError(
                f"'{noun}' is {times} in the layout image, but it is wanted {wanted} (found: {shown(found)}); "
                f"{_advice(image, noun, grounder)}"
            )
    return search.masks(found)


def masks_of_words_in_boxes(
    image: Image.Image, words: Sequence[str], boxes: Sequence[Box], grounder: Grounder
) -> list[NDArray[np.bool_]]:
    """Return for each box the object of its words that fills it best, cut to it, each another object.

    Args:
        image: the layout image, RGB.
        words: "a dog", one for each concept in the concepts' order.
        boxes: left, top, right, bottom in pixels of ``image``, one for each concept.
        grounder: finds objects.

    Returns:
        Masks ``(h, w)``, boolean.

    Raises:
        ConductorError: boxes that cannot be, or one that holds no such object.
    """
    if len(words) != len(boxes):
        raise ConductorError(f"there are {len(words)} words for {len(boxes)} boxes; give one for each box")
    check_boxes(boxes, image.size)
    search = Search(words)
    found = search.look(image, grounder)
    masks = []
    for number, (noun, box) in enumerate(zip(search.nouns, boxes), 1):
        left, top, right, bottom = (round(side) for side in box)
        inside = np.zeros(image.size[::-1], dtype=bool)
        inside[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        best = max(found[noun], key=lambda segment: mask_iou(segment.mask, inside), default=None)
        if best is None or (best.mask & inside).sum() < LEAST_INSIDE * best.mask.sum():
            raise ConductorError(
                f"box {number} holds no '{noun}' (found: {shown(found)}, none of them mostly inside of it); "
                f"{_advice(image, noun, grounder)}"
            )
        found[noun] = [segment for segment in found[noun] if segment is not best]
        masks.append(best.mask & inside)
    return masks


class Search:
    """How many objects of each kind words ask for, and on which side.

    Args:
        words: "a dog", "a dog on the right", one for each concept.
    """

    def __init__(self, words: Sequence[str]) -> None:
        parts = [parted(text) for text in words]
        self.nouns, self.sides = [noun for noun, _ in parts], [side for _, side in parts]
        self.counts = Counter(self.nouns)

    def look(self, image: Image.Image, grounder: Grounder) -> dict[str, list[Segment]]:
        """Find what each noun names, surest first."""
        wanted = list(self.counts)
        return dict(zip(wanted, grounder.find(image, wanted)))

    def enough(self, found: dict[str, list[Segment]]) -> bool:
        """Return whether there is an object for each of the words."""
        return all(len(found[noun]) >= count for noun, count in self.counts.items())

    def exact(self, found: dict[str, list[Segment]]) -> bool:
        """Return whether there are just as many objects as words."""
        return all(len(found[noun]) == count for noun, count in self.counts.items())

    def masks(self, found: dict[str, list[Segment]]) -> list[NDArray[np.bool_]]:
        """Return the objects' masks in the words' order, from what is found, which is enough."""
        chosen: dict[int, Segment] = {}
        for noun, segments in found.items():
            places = [index for index, other in enumerate(self.nouns) if other == noun]
            from_left = sorted(segments, key=_centre)
            for index in places:
                if self.sides[index] is not None:
                    chosen[index] = from_left.pop(0 if self.sides[index] == "left" else -1)
            plain = [index for index in places if self.sides[index] is None]
            surest = sorted(from_left, key=lambda segment: -segment.score)[: len(plain)]
            chosen |= dict(zip(plain, sorted(surest, key=_centre)))
        return [chosen[index].mask for index in range(len(self.nouns))]


def parted(words: str) -> tuple[str, str | None]:
    """Return the noun that ``words`` hold, and the side if they name one."""
    match = SIDE.fullmatch(words.strip())
    return (match[1], match[2].lower()) if match else (words.strip(), None)


def shown(found: dict[str, list[Segment]]) -> str:
    """Return what is found, for messages: "2 of 'a dog', 1 of 'a cat'"."""
    return ", ".join(f"{len(segments)} of '{noun}'" for noun, segments in found.items() if segments) or "nothing"


def _advice(image: Image.Image, noun: str, grounder: Grounder) -> str:
    """What is there instead, where the grounder can say it, and what can be done."""
    instead = f"{grounder.instead(image, noun)}; " if isinstance(grounder, Explaining) else ""
    return f"{instead}use other words, or give masks, points or boxes"


def _centre(segment: Segment) -> float:
    return (segment.box[0] + segment.box[2]) / 2
