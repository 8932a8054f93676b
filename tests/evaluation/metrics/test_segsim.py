"""SegSim, leakage and counting on segments whose answers are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.counting import differences, omitted, prompted, redundant
from concept_conductor.evaluation.metrics.items import ConceptReference, Item
from concept_conductor.evaluation.metrics.segsim import (
    area_name,
    best_segment,
    by_area,
    leakage,
    leakage_matrix,
    objects_of,
    one_to_one,
    segsim,
)
from concept_conductor.grounding.grounder import Segment

A, B, C = torch.eye(3)


def half(one: Tensor, other: Tensor) -> Tensor:
    return (one + other) / 2**0.5


def bar(start: int, stop: int, words: str = "a dog", score: float = 0.9) -> Segment:
    """A segment of the columns start..stop of a 10 x 10 image."""
    mask = np.zeros((10, 10), bool)
    mask[:, start:stop] = True
    return Segment(words, score, (start, 0, stop, 10), mask)


def test_algorithm_2_takes_the_best_segment_of_each_reference() -> None:
    references, segments = torch.stack([A, B]), torch.stack([A, half(B, C)])
    assert segsim(references @ segments.T) == pytest.approx((1 + 0.5**0.5) / 2)
    assert segsim(torch.zeros(2, 0)) == 0
    assert segsim(torch.tensor([[-0.5]])) == -0.5
    assert best_segment(references @ segments.T) == 0  # 1 + 0 against 0 + 0.71
    assert best_segment(torch.zeros(2, 0)) is None


def test_one_dog_serves_two_dog_concepts_in_the_papers_matching_only() -> None:
    similarities = [torch.tensor([[0.9]]), torch.tensor([[0.8]])]
    assert [segsim(matrix) for matrix in similarities] == pytest.approx([0.9, 0.8])
    assert one_to_one(similarities, [[0], [0]]) == [0, None]


def test_one_to_one_makes_the_sum_greatest() -> None:
    # greedily the first concept would take the first dog (0.9) and leave 0.1 to the second
    similarities = [torch.tensor([[0.9, 0.8]]), torch.tensor([[0.85, 0.1]])]
    assert one_to_one(similarities, [[0, 1], [0, 1]]) == [1, 0]
    assert one_to_one([torch.zeros(1, 0)] * 2, [[], []]) == [None, None]
    assert one_to_one([torch.tensor([[-0.2]])], [[0]]) == [None]
    assert one_to_one([], []) == []


def test_one_object_found_for_two_words_is_one_object() -> None:
    left_dog, right_dog = bar(0, 4), bar(6, 10)
    cat = bar(0, 5, "a cat")  # the left dog, taken for a cat too: IoU 0.8
    assert objects_of([[left_dog, right_dog], [cat]]) == [[0, 1], [0]]
    assert objects_of([[left_dog, right_dog], [bar(3, 8, "a cat")]]) == [[0, 1], [2]]
    assert objects_of([[left_dog], [left_dog]]) == [[0], [0]]
    assert objects_of([[bar(0, 4), bar(0, 5)]]) == [[0, 1]]  # of one word: the grounder says that they are two
    matched = one_to_one([torch.tensor([[0.9, 0.1]]), torch.tensor([[0.7]])], [[0, 1], [0]])
    assert matched == [0, None]
    assert one_to_one([torch.tensor([[0.9, 0.3]]), torch.tensor([[0.7]])], [[0, 1], [0]]) == [1, 0]


def test_areas() -> None:
    assert [area_name(bar(0, columns).mask) for columns in (0, 1, 2, 10)] == ["small", "medium", "large", "large"]
    means = by_area([0.2, 0.4, 0.9, 0.0], ["small", "small", "large", None])
    assert means == {"small": pytest.approx(0.3), "medium": None, "large": 0.9}


def test_leakage_counts_segments_that_look_like_another_concept() -> None:
    references = [torch.stack([A, A]), B[None], C[None]]
    clean = [A[None], half(B, A)[None] + 0.1 * B, C[None]]
    matrix = leakage_matrix([0, 0, 0], references, clean)
    assert torch.allclose(matrix[0], torch.tensor([1.0, 0, 0]))
    assert leakage(matrix) == 0
    mixed = leakage_matrix([0, 0, None], references, [A[None], A[None], C[None]])
    assert leakage(mixed) == 0.5  # the second looks like the first; the third is missing and does not count
    assert mixed[2].isnan().all()
    assert leakage(leakage_matrix([None], [A[None]], [torch.zeros(0, 3)])) is None


@pytest.fixture
def subject(tmp_path: Path):
    (tmp_path / "photo.png").write_bytes(b"x")
    return lambda name, words, **more: ConceptReference(name, words, (tmp_path / "photo.png",), **more)


@pytest.mark.parametrize(
    ("dogs", "mugs", "expected", "few", "many"),
    [
        (2, 1, {"dog": 0, "mug": 0}, False, False),
        (1, 1, {"dog": -1, "mug": 0}, True, False),
        (3, 0, {"dog": 1, "mug": -1}, True, True),
    ],
)
def test_counting(subject, dogs, mugs, expected, few, many) -> None:
    asked = prompted([subject("rex", "a dog"), subject("mug", "The mug."), subject("bello", "Dog")])
    assert asked == {"dog": 2, "mug": 1}
    found = differences({"dog": dogs, "mug": mugs, "cat": 7}, asked)
    assert found == expected and omitted(found) is few and redundant(found) is many


def test_prompts_with_class_nouns_for_placeholders(subject) -> None:
    rex = subject("chow_dog", "a dog")
    tok = subject("cup", "the mug", placeholders=("<TOK>", "sks"))

    def plain(prompt: str, *concepts: ConceptReference) -> str:
        return Item(Path("x.png"), prompt, concepts).plain_prompt

    assert plain("A <chow_dog_1> <chow_dog_2> and a <TOK> at sea.", rex, tok) == "A dog and a mug at sea."
    assert plain("Two <chow_dog_1> <chow_dog_2> <chow_dog_1> <chow_dog_2> play.", rex) == "Two dog play."
    assert plain("a sks and tasks, dog dog", rex, tok) == "a mug and tasks, dog dog"
    assert plain("a red dog", rex) == "a red dog"
    with pytest.raises(ConductorError, match=r"<siberian_cat_1> .* belongs to none of the concepts \(chow_dog\)"):
        plain("A <siberian_cat_1>", rex)


def test_subjects_that_cannot_be_measured(subject, tmp_path) -> None:
    with pytest.raises(ConductorError, match="'rex' has no class words"):
        subject("rex", " . ")
    with pytest.raises(ConductorError, match="no name"):
        subject(" ", "a dog")
    with pytest.raises(ConductorError, match="'rex' has no reference images"):
        ConceptReference("rex", "a dog", ())
    with pytest.raises(ConductorError, match=r"'rex' has no reference image .*gone\.png"):
        ConceptReference("rex", "a dog", (tmp_path / "gone.png",))
    with pytest.raises(ConductorError, match="'rex' is named twice"):
        Item(Path("x.png"), "", (subject("rex", "a dog"), subject("rex", "a dog")))
