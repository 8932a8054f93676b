"""Masks from words: what they name is found in the layout picture, one object for each concept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError

if TYPE_CHECKING:
    from concept_conductor.evaluation.grounding import Grounder, Segment

SIDE = re.compile(r"(.+?),?\s+(?:on|to|at) the (left|right)", re.IGNORECASE)
"""Words that say which of several objects they mean."""


def masks_of_words(image: Image.Image, words: Sequence[str], grounder: Grounder) -> list[NDArray[np.bool_]]:
    """A mask for each of ``words``, each of another object.

    Where the same words stand several times they mean the surest objects from left to right; "a dog on the right" is
    the rightmost dog.

    Args:
        image: the layout picture, RGB.
        words: "a dog", one for each concept in the concepts' order.
        grounder: finds objects.

    Returns:
        Masks ``(h, w)``, boolean.

    Raises:
        ConductorError: words name nothing, or fewer objects are there than words for them.
    """
    nouns, sides = zip(*(_parted(text) for text in words)) if words else ((), ())
    wanted = list(dict.fromkeys(nouns))
    found = dict(zip(wanted, grounder.find(image, wanted)))
    _check(found, Counter(nouns))
    chosen: dict[int, Segment] = {}
    for noun, segments in found.items():
        places = [index for index, other in enumerate(nouns) if other == noun]
        from_left = sorted(segments, key=_centre)
        for index in places:
            if sides[index] is not None:
                chosen[index] = from_left.pop(0 if sides[index] == "left" else -1)
        plain = [index for index in places if sides[index] is None]
        surest = sorted(from_left, key=lambda segment: -segment.score)[: len(plain)]
        chosen |= dict(zip(plain, sorted(surest, key=_centre)))
    return [chosen[index].mask for index in range(len(words))]


def _check(found: dict[str, list[Segment]], counts: Counter[str]) -> None:
    seen = [f"{len(segments)} of '{noun}'" for noun, segments in found.items() if segments]
    for noun, count in counts.items():
        if len(found[noun]) < count:
            times = {0: "not found", 1: "found once"}.get(len(found[noun]), f"found {len(found[noun])} times")
            wanted = "once" if count == 1 else f"{count} times"
            raise ConductorError(
                f"'{noun}' is {times} in the layout picture, but it is wanted {wanted} (found: "
                f"{', '.join(seen) or 'nothing'}); use other words, give masks, points or boxes, or ground it "
                "in Python with GroundedSam(box_threshold=...) below 0.3"
            )


def _parted(words: str) -> tuple[str, str | None]:
    """The noun, and the side if one is named."""
    match = SIDE.fullmatch(words.strip())
    return (match[1], match[2].lower()) if match else (words.strip(), None)


def _centre(segment: Segment) -> float:
    return (segment.box[0] + segment.box[2]) / 2
