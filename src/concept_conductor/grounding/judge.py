"""Text grounding in the embedded model's world, by its judge."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import LOWER, Segment, checked_threshold
from concept_conductor.io.files import content_hash
from concept_conductor.mini.judge import LEAST_SCORE, Finding, Judge


class JudgeGrounder:
    """The embedded model's judge, which knows the classes of the sticker world and no others.

    Args:
        judge: None for the one that is shipped.
        threshold: least score of an object, 0..1; the judge itself finds none below a half.
    """

    def __init__(self, judge: Judge | None = None, *, threshold: float = 0.0) -> None:
        self.judge = judge or Judge.load()
        self.threshold = checked_threshold("judge's", threshold)
        self.classes = list(dict.fromkeys(design.split("/")[0] for design in self.judge.designs))

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        """See :meth:`Grounder.find`; each of ``words`` must hold one class ("a dog", "dog on the left", "two dogs")."""
        classes = [self.class_of(text) for text in words]
        findings = [finding for finding in self.judge.find(image) if finding.score >= self.threshold]
        return [
            sorted(
                (_segment(text, finding, image.size) for finding in findings if finding.class_name == name),
                key=lambda segment: -segment.score,
            )
            for text, name in zip(words, classes)
        ]

    def find_all(self, images: Sequence[Image.Image], words: Sequence[Sequence[str]]) -> list[list[list[Segment]]]:
        """See :meth:`Grounder.find_all`."""
        return [self.find(image, own) for image, own in zip(images, words, strict=True)]

    def under(self, image: Image.Image, points: Sequence[tuple[float, float]]) -> list[NDArray[np.bool_]]:
        """See :meth:`Grounder.under`; of the classes that the judge knows."""
        masks = [_segment("", finding, image.size).mask for finding in self.judge.find(image)]
        nothing = np.zeros(image.size[::-1], dtype=bool)
        return [next((mask for mask in masks if mask[int(y), int(x)]), nothing) for x, y in points]

    def class_of(self, words: str) -> str:
        """Return the class that ``words`` hold.

        Raises:
            ConductorError: they hold none that is known, or several.
        """
        singular = {spelling: name for name in self.classes for spelling in (name, f"{name}s", f"{name}es")}
        held = list(dict.fromkeys(singular[word] for word in re.findall(r"\w+", words.lower()) if word in singular))
        if len(held) != 1:
            raise ConductorError(
                f"the words '{words}' name {'several' if held else 'none'} of the classes that the embedded judge "
                f"knows; expected exactly one of {', '.join(self.classes)}"
            )
        return held[0]

    def instead(self, image: Image.Image, words: str) -> str:
        """See :meth:`Explaining.instead`."""
        seen = [f"a {finding.class_name} ({finding.score:.2f})" for finding in self.judge.find(image)]
        told = f"the judge sees {' and '.join(seen) or 'nothing that it knows'}"
        return f"{told}; its threshold is {self.threshold:g}, {LOWER}" if self.threshold > LEAST_SCORE else told

    def identity(self) -> str:
        """Return a hash of the judge's weights."""
        return f"judge {content_hash(self.judge.network.state_dict())[:16]} {self.threshold or ''}".strip()


def _segment(words: str, finding: Finding, size: tuple[int, int]) -> Segment:
    width, height = size
    mask = Image.fromarray(finding.mask).resize(size, Image.Resampling.NEAREST)
    left, top, right, bottom = finding.box
    box = (left * width, top * height, right * width, bottom * height)
    return Segment(words, finding.score, box, np.asarray(mask, dtype=bool))
