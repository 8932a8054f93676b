"""Layouts from words: found by the embedded judge in drawn scenes whose masks are known, and by a stand-in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from concept_conductor import Layout
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Segment
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.layouts.phrases import masks_of_words, masks_of_words_in_boxes
from concept_conductor.mini.arrangements import arrange
from concept_conductor.mini.presets import CPU

IMAGE = Image.new("RGB", (80, 40))


class Found:
    """Finds dogs at these columns, the first surest, and a cat in column 70."""

    def __init__(self, *columns: int) -> None:
        self.columns = {"a dog": columns, "a cat": (70,)}

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        def segment(noun: str, number: int, column: int) -> Segment:
            mask = np.zeros((40, 80), dtype=bool)
            mask[:, column] = True
            return Segment(noun, 0.9 - 0.1 * number, (column, 0, column + 1, 40), mask)

        return [[segment(noun, *one) for one in enumerate(self.columns.get(noun, ()))] for noun in words]

    def identity(self) -> str:
        return "found"


def columns(words: list[str], *dogs: int) -> list[int]:
    return [int(np.flatnonzero(mask.any(0))[0]) for mask in masks_of_words(IMAGE, words, Found(*dogs))]


def test_the_same_words_go_from_left_to_right() -> None:
    assert columns(["a dog", "a cat", "a dog"], 50, 10) == [10, 70, 50]
    assert columns(["a dog", "a dog"], 50, 10, 30) == [10, 50]  # the two surest


def test_a_side_may_be_said() -> None:
    assert columns(["a dog on the right", "a dog on the left"], 50, 10, 30) == [50, 10]
    assert columns(["a dog, on the right"], 10, 30) == [30]
    assert columns(["a dog on the right", "a dog"], 50, 10) == [50, 10]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["a dog", "a ship"], "'a ship' is not found .*found: 1 of 'a dog'"),
        (["a dog", "a dog"], "'a dog' is found once .* wanted 2 times"),
    ],
)
def test_what_is_not_there(words: list[str], sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        columns(words, 10)


@pytest.mark.parametrize("classes", [("dog", "robot"), ("mug", "mug")])
def test_the_judge_finds_what_was_drawn(classes: tuple[str, str]) -> None:
    drawn = arrange(CPU.world(), classes, "grass", seed=3)
    layout = Layout.from_words(drawn.image, drawn.prompt, [f"a {name}" for name in classes], JudgeGrounder())
    assert layout.kind == "masks"
    for exact, mask in zip(drawn.masks or (), layout.masks or (), strict=True):
        exact, mask = np.asarray(exact) > 0, np.asarray(mask)
        assert (exact & mask).sum() / (exact | mask).sum() > 0.7


def test_in_boxes_each_word_means_the_object_there() -> None:
    boxes = [(40, 0, 60, 40), (0, 10, 20, 40)]
    right, left = masks_of_words_in_boxes(IMAGE, ["a dog", "a dog"], boxes, Found(10, 50))
    assert np.flatnonzero(right.any(0)).tolist() == [50]
    assert np.flatnonzero(left.any(0)).tolist() == [10]
    assert not left[:10].any() and left[10:, 10].all()  # cut to its box


@pytest.mark.parametrize(
    ("words", "boxes", "sentence"),
    [
        (["a dog", "a dog"], [(0, 0, 20, 40), (60, 0, 80, 40)], "box 2 holds no 'a dog' .found: 1 of 'a dog'"),
        (["a cat"], [(0, 0, 20, 40)], "box 1 holds no 'a cat'"),
        (["a dog"], [(0, 0, 20, 40), (60, 0, 80, 40)], "there are 1 words for 2 boxes"),
        (["a dog"], [(0, 0, 90, 40)], "box 1 .* reaches out of the layout image"),
    ],
)
def test_boxes_without_their_objects(
    words: list[str], boxes: list[tuple[float, float, float, float]], sentence: str
) -> None:
    with pytest.raises(ConductorError, match=sentence):
        masks_of_words_in_boxes(IMAGE, words, boxes, Found(10, 50))


def test_the_judge_says_what_it_sees_instead_and_keeps_to_its_threshold() -> None:
    drawn = arrange(CPU.world(), ("dog", "robot"), "grass", seed=3)
    sees = r"'a mug' is not found .*sees a dog \(0.\d\d\) and a robot \(0.\d\d\); use other words, or give masks"
    with pytest.raises(ConductorError, match=sees):  # no threshold keeps anything out
        masks_of_words(drawn.image, ["a mug"], JudgeGrounder())
    with pytest.raises(
        ConductorError, match="'a dog' is not found .*; its threshold is 1, lower it .'threshold' in a recipe"
    ):
        masks_of_words(drawn.image, ["a dog"], JudgeGrounder(threshold=1.0))
    with pytest.raises(ConductorError, match="the judge's threshold of grounding is 2; expected 0 to 1"):
        JudgeGrounder(threshold=2)
    assert JudgeGrounder(threshold=0.9).identity() != JudgeGrounder().identity()
