"""Prompt syntax of other tools is found by name, and plain words are left alone."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_conductor.backbones.prompt_syntax import literal_syntax, syntax_warning


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a (dog:1.3) and a [cat:0.8]", ["(dog:1.3)", "[cat:0.8]"]),
        ("(a big dog, running : 1.2)", ["(a big dog, running : 1.2)"]),
        ("((a:1.2), b)", ["(a:1.2)"]),
        ("a (dog)1.3 and a dog++", ["(dog)1.3", "dog++"]),
        ("((masterpiece)), [[blurry]]", ["((masterpiece))", "[[blurry]]"]),
        ("a dog BREAK a cat AND a bird", ["BREAK", "AND"]),
        ("[dog:cat:0.5] [dog|cat] {red|blue}", ["[dog:cat:0.5]", "[dog|cat]", "{red|blue}"]),
        (
            "<lora:some style:0.8> <LyCo:x> embedding:bad-hands",
            ["<lora:some style:0.8>", "<LyCo:x>", "embedding:bad-hands"],
        ),
        ("a (dog:1.3) and a (dog:1.3)", ["(dog:1.3)"]),
    ],
)
def test_what_other_tools_obey_is_found_in_order(prompt: str, found: list[str]) -> None:
    assert literal_syntax(prompt) == found


@pytest.mark.parametrize(
    "prompt",
    [
        "A <chow_dog_1> <chow_dog_2> and a <new1> (two toys) on a [red] stage, 16:9.",
        "a clock that shows 10:30 (noon), C++ and R&B, a break and a band",
        "a photo (from above), ratio (16:9): a dog",
        "HEARTBREAK, LAND, a dog: a cat",
        "",
    ],
)
def test_plain_words_are_left_alone(prompt: str) -> None:
    assert literal_syntax(prompt) == []
    assert syntax_warning([prompt, None]) is None


def test_one_sentence_names_all_of_it_once() -> None:
    said = syntax_warning(["a (dog:1.3)", None, "BREAK (dog:1.3)"])
    assert said is not None
    assert said.startswith(
        "prompts are plain words here, so that '(dog:1.3)', 'BREAK' are read literally; leave them out"
    )
    many = syntax_warning([" ".join(f"(dog:{number}.5)" for number in range(9))])
    assert many is not None and "(dog:4.5)', ... are read" in many and "(dog:5.5)" not in many


@pytest.mark.parametrize("piece", ["(", "[a|", "(a", "(1:", "<lora:", "[:", "word+"])
def test_no_prompt_takes_long(piece: str) -> None:
    start = time.process_time()
    literal_syntax((piece * 20_000)[:20_000])
    assert time.process_time() - start < 10


@given(prompt=st.text("(dog)[:]1.3<lora>|{} ,+BREAK\n", max_size=60))
@settings(max_examples=100, deadline=None)
def test_what_is_found_stands_in_the_prompt(prompt: str) -> None:
    assert all(piece in prompt for piece in literal_syntax(prompt))
