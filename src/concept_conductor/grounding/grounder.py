"""Segments: objects that words name, and who finds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError

LOWER = "lower it ('threshold' in a recipe)"
"""What to do about a threshold that keeps objects out."""


class Segment(NamedTuple):
    """One object that was found.

    Attributes:
        words: what was looked for.
        score: 0..1, how sure the detector is.
        box: x0, y0, x1, y1 in pixels of the image.
        mask: bool ``(h, w)`` of the image's size; never empty.
    """

    words: str
    score: float
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


class Grounder(Protocol):
    """What finds the objects that words name."""

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        """Find for each of ``words`` its segments in ``image``, best first, no two of them the same object.

        Raises:
            ConductorError: words that cannot be looked for.
        """
        ...

    def find_all(self, images: Sequence[Image.Image], words: Sequence[Sequence[str]]) -> list[list[list[Segment]]]:
        """Find in each of several images what words of its own name, as :meth:`find` does."""
        ...

    def under(self, image: Image.Image, points: Sequence[tuple[float, float]]) -> list[NDArray[np.bool_]]:
        """Return the mask ``(h, w)`` of what is under each of ``points`` ``(x, y)`` in pixels; empty for nothing."""
        ...

    def identity(self) -> str:
        """Return what tells this instrument's results from another's in a cache."""
        ...


@runtime_checkable
class Explaining(Protocol):
    """A grounder that can say what it sees where it does not find what it should."""

    def instead(self, image: Image.Image, words: str) -> str:
        """Say what there is instead of ``words``, and whether a lower threshold would help, in part of a sentence."""
        ...


def checked_threshold(name: str, value: float) -> float:
    """Return ``value``, if it is a threshold.

    Raises:
        ConductorError: it is not.
    """
    if not 0 <= value <= 1:
        raise ConductorError(f"the {name} threshold of grounding is {value}; expected 0 to 1")
    return value
