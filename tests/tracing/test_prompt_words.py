"""Words are found by their tokens' own places, and the foreground by what variants replace."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from concept_conductor.backbones.conditioning import tokenize
from concept_conductor.mini import MODEL_FOLDER
from concept_conductor.tracing.prompt_words import differing, marked, words_of
from tests.conftest import TINY


@cache
def of_letters() -> CLIPTokenizer:
    """A token for every letter: no word is one token."""
    return CLIPTokenizer.from_pretrained(TINY / "tokenizer")


@pytest.fixture
def tokenizer() -> CLIPTokenizer:
    return of_letters()


def spelled(tokenizer: CLIPTokenizer, prompt: str, positions: tuple[int, ...]) -> str:
    ids = tokenize(tokenizer, prompt, ()).ids
    return "".join(tokenizer.convert_ids_to_tokens([int(ids[i]) for i in positions])).replace("</w>", "")


WORDS = st.from_regex(r"[a-zA-Z]{1,6}", fullmatch=True)
GAPS = st.sampled_from([" ", "  ", ", ", " - ", ". ", "\t"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, GAPS), min_size=1, max_size=8))
def test_the_tokens_of_a_word_spell_it(parts: list[tuple[str, str]]) -> None:
    tokenizer = of_letters()
    prompt = "".join(word + gap for word, gap in parts)
    words = words_of(tokenizer, prompt)
    assert [word.text for word in words] == [word for word, _ in parts]
    for word in words:
        assert spelled(tokenizer, prompt, word.positions) == word.text.lower()
    taken = [i for word in words for i in word.positions]
    assert taken == sorted(set(taken))


def test_placeholders_stand_where_tokenize_puts_them(tokenizer: CLIPTokenizer) -> None:
    prompt, names = "A <d_1> <d_2> and a dog, <d_1>, <d_2>!", ("<d_1>", "<d_2>")
    positions = {"<d_1>": 3, "<d_2>": 1}
    words = words_of(tokenizer, prompt, names, positions)
    starts = tokenize(tokenizer, prompt, names, positions).placeholders
    placeholders = [word for word in words if word.placeholder]
    assert [word.text for word in placeholders] == ["<d_1> <d_2>", "<d_1>", "<d_2>"]
    assert [len(word.positions) for word in placeholders] == [4, 3, 1]
    assert {word.positions[0] for word in placeholders} <= set(starts)
    assert all(word.foreground for word in placeholders)
    assert [word.text for word in words if not word.placeholder] == ["A", "and", "a", "dog"]


def test_what_the_encoder_does_not_read_has_no_heat(tokenizer: CLIPTokenizer) -> None:
    words = words_of(tokenizer, " ".join(["beach"] * 40))
    assert max(i for word in words for i in word.positions) == tokenizer.model_max_length - 2
    assert len(words) == 15  # 75 letters


def test_words_of_the_embedded_model_are_whole_tokens() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MODEL_FOLDER / "tokenizer")
    assert [word.positions for word in words_of(tokenizer, "a dog, and a robot")] == [(1,), (2,), (4,), (5,), (6,)]


@pytest.mark.parametrize(
    ("base", "variant", "base_foreground", "variant_foreground"),
    [
        ("A dog and a cat there.", "A <d> and a <d> there.", ["dog", "cat"], ["<d>", "<d>"]),
        ("a dog and a cat", "<d> and <d>", ["dog", "cat"], ["<d>", "<d>"]),
        ("a fluffy dog here", "a <d> here", ["dog"], ["<d>"]),
        ("a dog here", "a shiba inu here", ["dog"], ["shiba", "inu"]),
        ("a dog here", "a dog here", [], []),
    ],
)
def test_the_foreground_is_what_the_variant_replaces(
    tokenizer: CLIPTokenizer, base: str, variant: str, base_foreground: list[str], variant_foreground: list[str]
) -> None:
    both = differing(words_of(tokenizer, base), words_of(tokenizer, variant, ("<d>",)))
    assert [word.text for word in both[0] if word.foreground] == base_foreground
    assert [word.text for word in both[1] if word.foreground] == variant_foreground


def test_words_may_be_named(tokenizer: CLIPTokenizer) -> None:
    assert [w.text for w in marked(words_of(tokenizer, "A Dog, a cat"), {"dog"}) if w.foreground] == ["Dog"]
