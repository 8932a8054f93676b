"""How a concept is spoken of: its variant of the base prompt."""

from __future__ import annotations

import pytest
import torch

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.placeholders import split_at
from concept_conductor.concepts.prompt import ConceptPrompt, replace_words
from concept_conductor.errors import ConductorError

TOYS = Concept("toys", ({"<a>": torch.ones(1, 4), "<b>": torch.ones(1, 4)},))
PLAIN = Concept("plain")


def test_placeholders_take_the_places_of_words() -> None:
    assert ConceptPrompt(TOYS, replaces=["toys"]).variant("Two toys on a stage.") == "Two <a> <b> on a stage."
    assert ConceptPrompt(TOYS, replaces="toys").variant("Toys, toystory.") == "<a> <b>, toystory."  # type: ignore[arg-type]
    assert ConceptPrompt(TOYS, "A <b> and <a>.").variant("whatever") == "A <b> and <a>."


@pytest.mark.parametrize(
    ("prompt", "words", "replaced"),
    [
        ("A dog and a dog.", ["dog"], "A X and a X."),
        ("A Dog, hotdogs.", ["dog"], "A X, hotdogs."),
        ("A toy dog and a dog.", ["dog", "toy dog"], "A X and a X."),  # the longest first
    ],
)
def test_whole_words_are_replaced_whatever_their_case(prompt: str, words: list[str], replaced: str) -> None:
    assert replace_words(prompt, words, "X") == replaced


@pytest.mark.parametrize("words", [["cat"], [" "], [""]])
def test_a_word_must_be_in_the_prompt(words: list[str]) -> None:
    with pytest.raises(ConductorError, match="is not in the prompt 'A dog.'"):
        replace_words("A dog.", words, "X")


def test_either_a_prompt_or_words() -> None:
    for given in ({}, {"prompt": "A <a> <b>.", "replaces": ["dog"]}):
        with pytest.raises(ConductorError, match="'toys' needs either prompt=.* or replaces=.*, exactly one"):
            ConceptPrompt(TOYS, **given)


def test_a_variant_has_every_placeholder() -> None:
    with pytest.raises(ConductorError, match="lacks its placeholder <b>; write <a> <b> where"):
        ConceptPrompt(TOYS, "A <a>.").variant("A dog.")


def test_words_cannot_be_replaced_by_nothing() -> None:
    with pytest.raises(ConductorError, match="'plain' has no placeholders and its file names no trigger words"):
        ConceptPrompt(PLAIN, replaces=["dog"]).variant("A dog.")
    assert ConceptPrompt(PLAIN, "A photo of sks dog.").variant("A dog.") == "A photo of sks dog."
    named = Concept("named", metadata={"trigger_words": "sks dog"})
    assert ConceptPrompt(named, replaces=["dog"]).variant("A dog.") == "A sks dog."


def test_the_second_text_encoder_reads_its_own_prompt() -> None:
    words = ConceptPrompt(TOYS, replaces=["toys"])
    assert words.variant_2(None) is None
    assert words.variant_2("Toys in a film.") == "<a> <b> in a film."
    assert words.variant_2("A film.") == "A film."  # nothing of the concept in it
    named = ConceptPrompt(Concept("dog", metadata={"trigger_words": "sks dog"}), replaces=["dog"])
    assert named.variant_2("A dog.") == "A sks dog."  # as in the first
    assert ConceptPrompt(TOYS, "<a> <b>", prompt_2="<a> <b> again").variant_2("A film.") == "<a> <b> again"
    with pytest.raises(ConductorError, match="the base prompt has a prompt_2 but the concept 'toys' has none"):
        ConceptPrompt(TOYS, "<a> <b>").variant_2("A film.")


def test_a_prompt_is_split_at_its_placeholders() -> None:
    assert split_at("art in a cart: <a>, <a2>", ["<a>", "<a2>", "art"]) == [
        "",
        "art",
        " in a cart: ",
        "<a>",
        ", ",
        "<a2>",
        "",
    ]
    assert split_at("nothing", []) == ["nothing"]
