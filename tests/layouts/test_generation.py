"""Generated layouts: which candidate is taken, and which images objects are cut out of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from concept_conductor import Layout
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Segment

BACKGROUND = "#102030"


def text_to_image(prompt: str, seed: int) -> Image.Image:
    """An image that tells the grounder its seed."""
    return Image.new("RGB", (40, 40), (seed, len(prompt), 200))


class Shows:
    """Finds so many dogs and cats in the image of each seed; ``whole`` are those that do not reach its edge."""

    def __init__(self, counts: Sequence[tuple[int, int]], whole: Sequence[int] | None = None) -> None:
        self.counts, self.whole = counts, range(len(counts)) if whole is None else whole

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        pixel = image.getpixel((0, 0))
        assert isinstance(pixel, tuple)
        seed = int(pixel[0])
        counts = dict(zip(("a dog", "a cat"), self.counts[seed]))
        return [[self.segment(noun, number, seed) for number in range(counts[noun])] for noun in words]

    def segment(self, noun: str, number: int, seed: int) -> Segment:
        mask = np.zeros((40, 40), dtype=bool)
        top, left = (4 if seed in self.whole else 0), 4 + 12 * number + (6 if noun == "a cat" else 0)
        mask[top:30, left : left + 5] = True
        return Segment(noun, 0.9 - 0.1 * number, (left, top, left + 5, 30), mask)

    def identity(self) -> str:
        return "shows"


@pytest.mark.parametrize(
    ("counts", "seed"),
    [
        ([(0, 1), (1, 1), (1, 1)], 1),
        ([(2, 1), (1, 0), (1, 1)], 2),  # just as many goes before more
        ([(0, 0), (2, 1), (3, 1)], 1),  # the first with enough
    ],
)
def test_the_candidate_that_matches_the_words(counts: list[tuple[int, int]], seed: int) -> None:
    layout = Layout.from_generated(text_to_image, "pets", ["a dog", "a cat"], Shows(counts), range(len(counts)))
    assert layout.seeds == (seed,)
    assert layout.image == text_to_image("pets", seed)
    assert [int(np.flatnonzero(np.asarray(mask).any(0))[0]) for mask in layout.masks or ()] == [4, 10]


def test_no_candidate_matches() -> None:
    with pytest.raises(ConductorError) as caught:
        Layout.from_generated(text_to_image, "pets", ["a dog", "a dog", "a cat"], Shows([(1, 1), (0, 0)]), [1, 0])
    assert str(caught.value).startswith(
        "none of 2 generated candidates shows 2 of 'a dog', 1 of 'a cat' (found: seed 1: nothing; seed 0: 1 of 'a dog',"
    )


def boxed(words: list[str], grounder: Shows, seeds: Sequence[int]) -> Layout:
    boxes = [(0, 0, 20, 40), (20, 10, 40, 30)][: len(words)]
    return Layout.from_boxes(
        text_to_image, "pets", words, boxes, grounder, background=BACKGROUND, size=(40, 40), seeds=seeds
    )


def taken(layout: Layout) -> list[int]:
    """From which seed's image each object is."""
    pixels = np.asarray(layout.image)
    return [int(pixels[np.asarray(mask)][0, 0]) for mask in layout.masks or ()]


def test_objects_of_the_same_words_are_different_ones() -> None:
    layout = boxed(["a dog", "a dog on the right"], Shows([(1, 1)] * 3), range(3))
    assert taken(layout) == [0, 1] and layout.seeds == (0, 1)
    layout = boxed(["a dog", "a cat"], Shows([(1, 1)] * 3), range(3))
    assert taken(layout) == [0, 0] and layout.seeds == (0,)


def test_whole_single_objects_are_taken_first() -> None:
    assert taken(boxed(["a dog"], Shows([(0, 0), (1, 0), (2, 0), (1, 0)], whole=[2, 3]), range(4))) == [3]
    assert taken(boxed(["a dog"], Shows([(0, 0), (1, 0), (2, 0)], whole=[2]), range(3))) == [1]


def test_with_the_seeds_that_were_taken_it_is_the_same_again() -> None:
    grounder = Shows([(0, 0), (1, 0), (2, 2), (1, 1), (1, 0)], whole=[2, 3, 4])
    first = boxed(["a dog", "a cat"], grounder, range(5))
    again = boxed(["a dog", "a cat"], grounder, first.seeds)
    assert first.seeds == (3,)
    assert first.image == again.image


def test_an_object_that_is_nowhere() -> None:
    with pytest.raises(ConductorError, match="'a cat' is found in none of the 2 images of 'a cat'; give"):
        boxed(["a dog", "a cat"], Shows([(1, 0)] * 2), range(2))
