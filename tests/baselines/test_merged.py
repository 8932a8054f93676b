"""Merging concepts into one model, the naive way."""

from __future__ import annotations

import pytest
import torch

from concept_conductor import Concept, ConceptPrompt
from concept_conductor.baselines.merged import joint_prompt, merged
from concept_conductor.concepts.data import LowRank
from concept_conductor.errors import ConductorError


def concept(name: str, token: str | None = None) -> Concept:
    update = LowRank(torch.randn(2, 5), torch.randn(3, 2))
    return Concept(name, ({token or f"<{name}>": torch.randn(16, 8)},), ({"q": update},), {"k": update})


def test_merged_updates_are_sums() -> None:
    torch.manual_seed(0)
    one, two = concept("one"), concept("two")
    both = merged([one, two])
    assert both.placeholders == ("<one>", "<two>")
    for whole, first, second in ((both.unet, one.unet, two.unet), *zip(*(c.text_encoders for c in (both, one, two)))):
        for name, update in whole.items():
            wanted = first[name].up @ first[name].down + second[name].up @ second[name].down
            torch.testing.assert_close(update.up @ update.down, wanted)


def test_shared_placeholders_are_refused() -> None:
    with pytest.raises(ConductorError, match="<one>"):
        merged([concept("one"), concept("two", "<one>")])


@pytest.mark.parametrize(
    ("prompt", "words", "joint"),
    [
        ("a mug and a mug on snow", ["mug"], "a <one> and a <two> on snow"),
        ("A Dog and a cat, a catalogue", ["dog", "cat"], "A <one> and a <two>, a catalogue"),
    ],
)
def test_each_concept_takes_its_own_words(prompt: str, words: list[str], joint: str) -> None:
    entries = [ConceptPrompt(concept(name), replaces=words) for name in ("one", "two")]
    assert joint_prompt(prompt, entries) == joint


def test_words_must_be_there_often_enough() -> None:
    entries = [ConceptPrompt(concept(name), replaces=["mug"]) for name in ("one", "two")]
    with pytest.raises(ConductorError, match="no 'mug' left for the concept 'two'"):
        joint_prompt("two mugs, one a mug", entries)
    with pytest.raises(ConductorError, match="needs? 'replaces'"):
        joint_prompt("a mug", [ConceptPrompt(concept("one"), "a <one>")])
