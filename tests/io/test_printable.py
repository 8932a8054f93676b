"""Text on its way out: what a terminal or page would act on is shown instead."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_conductor.io.printable import one_line, printable, printable_data


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a dog, déjà vu, 犬, 🐕‍🦺", "a dog, déjà vu, 犬, 🐕‍🦺"),
        ("\x1b]0;owned\x07\x1b[2J", r"\x1b]0;owned\x07\x1b[2J"),
        ("back\b\rforged", r"back\x08\rforged"),
        ("\x7f\x9b2J\x85", "\\u007f\\u009b2J\\u0085"),
        ("evil\u202egnp.exe\u2066\u200f", "evil\\u202egnp.exe\\u2066\\u200f"),
        ("half \udce9 of\ud83d one", "half \\udce9 of\\ud83d one"),
        ("two\u2028lines\nand\tmore", "two\\u2028lines\nand\tmore"),
        ("no-break\u00a0blank\u3000", "no-break\u00a0blank\u3000"),
        ("tag \U000e0041", "tag \\udb40\\udc41"),
    ],
)
def test_what_acts_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_has_one_line() -> None:
    assert one_line("a\nforged: line\t\x1b") == r"a\nforged: line\t\x1b"


def test_data_keeps_its_structure() -> None:
    assert printable_data({"a\x1b": ["b\x07", 1, None, ("c",)]}) == {r"a\x1b": [r"b\x07", 1, None, ["c"]]}


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_nothing_that_acts_is_left_and_json_means_the_same(text: str) -> None:
    shown = printable(text)
    assert not any(ord(character) < 32 and character not in "\n\t" for character in shown)
    assert not set(shown) & set(
        "\x7f\x9b\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u2028\u2029"
    )
    shown.encode()
    written = json.dumps(text, ensure_ascii=False)
    assert json.loads(printable(written)) == text
