"""Documents: YAML 1.2 and JSON as plain values with lines, and one sentence for everything else."""

from __future__ import annotations

import math
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from concept_conductor.io import documents
from concept_conductor.io.documents import DocumentError, read_document, read_json, read_yaml


class Anything(BaseModel):
    """A model that a document may fit or not."""

    prompt: str
    steps: int | None = None


def written(folder: Path, text: str, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", 10),
        ("-7", -7),
        ("+7", 7),
        ("0x1F", 31),
        ("0o17", 15),
        ("9223372036854775807", 2**63 - 1),
        ("1e3", 1000.0),
        ("3e-3", 0.003),
        ("-.5", -0.5),
        ("5.", 5.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("1:30:45", "1:30:45"),  # YAML 1.1 has numbers of base 60,
        ("1_000", "1_000"),  # of groups,
        ("0b11", "0b11"),  # of base 2,
        ("2020-99-99", "2020-99-99"),  # dates,
        ("no", "no"),  # and more words for truth
        ("on", "on"),
        ("=", "="),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ('!!int "5"', 5),
        ("!!float 5", 5.0),
        ('"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = read_yaml(f"a: {text}", "x").data["a"]
    assert read == value and type(read) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(read_yaml("a: .nan", "x").data["a"])


def test_every_place_has_its_line() -> None:
    document = read_yaml("a: 1\nb:\n- c\n- d: [x,\n    y]\n", "x")
    assert document.data == {"a": 1, "b": ["c", {"d": ["x", "y"]}]}
    places = [("a",), ("b",), ("b", 0), ("b", 1, "d"), ("b", 1, "d", 1), ("b", 1, "d", 1, "unknown")]
    assert [document.line(place) for place in places] == [1, 2, 3, 4, 5, 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt: [unclosed", "x, line 1: this is no valid YAML"),
        ("a: b: c", "x, line 1: this is no valid YAML"),
        ("prompt: a\n---\nprompt: b", "this is no valid YAML"),
        ("prompt: \x01", "this is no valid YAML"),
        ("prompt: a\n? [x]\n: y", "x, line 2: expected a plain word"),
        ("a: 1\nb: 2\na: 3", "x, line 3: 'a' stands here a second time"),
        ("[" * 5000, "x, line 1: expected at most 20,000 values in 20 levels"),
        ("- x\n" * 50_000, "expected at most 20,000 values"),
        ("prompt: &a [*a]", "this is more|aliases make this more"),
        ("a: !!bool x", "x, line 1: expected a value that fits the tag '!!bool'"),
        ('a: 1\nb: !!int ""', "x, line 2: expected a value that fits the tag '!!int'"),
        ("a: !!float _", "x, line 1: expected a value that fits the tag '!!float'"),
        ("a: !!timestamp x", "x, line 1: the tag '!!timestamp' is not read"),
        ("a: !!binary x", "x, line 1: the tag '!!binary' is not read"),
        ("a: !!set {x}", "x, line 1: the tag '!!set' is not read"),
        ("a: !own x", "x, line 1: the tag '!own' is not read"),
        ("a: !!python/object/apply:os.system [touch hacked]", "x, line 1: the tag '!!python/object/apply:os.system'"),
        (f"a: 1\nb: {'9' * 5000}", "x, line 2: 'b': .*but it is a whole number of too many digits"),
        (f"a: [1, 0x{'f' * 5000}]", r"x, line 1: 'a\[1\]': .*but it is a whole number of too many digits"),
        ("a: 9223372036854775808", "x, line 1: 'a': .*but it is a whole number of too many digits"),
        ('a: "\\ud800"', "x, line 1: 'a': half of a surrogate pair"),
        ('"\\udfff": 1', "x, line 1: half of a surrogate pair"),
    ],
)
def test_yaml_that_is_not_read(text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=said):
        read_yaml(text, "x")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(
            ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
            + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
        ),
        f"a: &x {'b' * 100_000}\nc: [{'*x,' * 10_000}]",
    ],
    ids=["of lists", "of one long text"],
)
def test_a_yaml_bomb_is_refused(text: str) -> None:
    with pytest.raises(DocumentError, match="aliases make this more than 20,000 values"):
        read_yaml(text, "bomb.yaml")


def test_aliases_in_moderation_are_welcome() -> None:
    assert read_yaml("a: &x {b: 1}\nc: *x", "x").data == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize("text", ["1" + ":59" * 120_000, "9" * 500_000, "." + "9" * 500_000], ids=["60", "10", "0.1"])
def test_no_number_takes_long(text: str) -> None:
    start = time.process_time()
    with suppress(DocumentError):
        read_yaml(f"a: {text}", "x")
    assert time.process_time() - start < 10  # reading alone takes a fifth of a second; numbers of base 60 took 30


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="there is no file"):
        read_document(tmp_path / "none.yaml")
    with pytest.raises(DocumentError, match="there is no file"):
        read_document(tmp_path / ("a" * 300))
    (tmp_path / "big.yaml").write_bytes(b"#" * (documents.MAX_BYTES + 1))
    with pytest.raises(DocumentError, match="expected at most 1,048,576 bytes"):
        read_document(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes("prompt: ä".encode("latin-1"))
    with pytest.raises(DocumentError, match="expected UTF-8 text, but byte 8"):
        read_document(tmp_path / "latin.yaml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("pipe.yaml", "zero.yaml", "folder.yaml"):
        with pytest.raises(DocumentError, match=f"{name}' is no ordinary file"):
            read_document(tmp_path / name)
    with pytest.raises(DocumentError, match="there is no file"):
        read_document(tmp_path / "loop.yaml")
    if Path("/proc/self/environ").exists():
        with pytest.raises(DocumentError, match="is no ordinary file"):
            read_document("/proc/self/environ")


def test_json_has_lines_and_whole_characters(tmp_path: Path) -> None:
    path = written(tmp_path, '{\n"prompt": "\\ud83d\\ude00",\n\t"steps": "x"}', "a.json")
    document = read_document(path)
    assert document.data["prompt"] == "\N{GRINNING FACE}"
    assert document.line(("steps",)) == 3
    with pytest.raises(DocumentError, match="line 3: 'steps'"):
        document.validated(Anything)


def test_json_that_yaml_cannot_read_is_read_without_lines() -> None:
    document = read_json('{"prompt": "delete\x7f"}', "x")
    assert (document.data, document.lines) == ({"prompt": "delete\x7f"}, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,\n b}', "x, line 2: this is no valid JSON"),
        ("[" * 100_000, "x, line 1: this is no valid JSON: nested too deeply"),
        ("[" * 500 + "]" * 500, "expected at most 20,000 values in 20 levels"),
        ('{"a": "\x7f", "b": ' + "[" * 500 + "]" * 500 + "}", "x: expected at most 20,000 values in 20 levels"),
        ('{"a": 1,\n"a": 2}', "x, line 2: 'a' stands here a second time"),
        ('{"b": "\x7f", "a": 1, "a": 2}', "x: 'a' stands in a group a second time"),
        (f'{{"a": 1,\n"b": {"9" * 5000}}}', "x, line 2: 'b': .*but it is a whole number of too many digits"),
        ('{"a": ["\\ud800"]}', r"x, line 1: 'a\[0\]': half of a surrogate pair"),
    ],
)
def test_json_that_is_not_read(text: str, said: str) -> None:
    with pytest.raises(DocumentError, match=said):
        read_json(text, "x")


def test_names_and_values_cannot_forge_lines_or_act_on_a_terminal() -> None:
    text = '{"steps": "\\u001b[2J\\n", "a\\nx, line 9": 1, "prompt": "a"}'
    with pytest.raises(DocumentError) as caught:
        read_json(text, "x").validated(Anything)
    (said,) = str(caught.value).splitlines()
    assert said.isprintable() and "'\\x1b[2J\\n'" in said
    with pytest.raises(DocumentError) as caught:
        read_json('{"a\\nb": 1, "a\\nb": 2}', "x")
    assert "'a\\nb' stands here a second time" in str(caught.value)


@pytest.mark.parametrize(("text", "held"), [("- just\n- a list", "a list"), ("", "empty"), ("5", "5")])
def test_documents_without_fields(text: str, held: str) -> None:
    with pytest.raises(DocumentError, match=f"expected fields such as 'prompt: ...', but it holds {held}"):
        read_yaml(text, "x").validated(Anything)


@given(text=st.text(max_size=200))
@settings(max_examples=100, deadline=None)
def test_any_text_is_read_or_refused_in_clear_words(text: str) -> None:
    for reader in (read_yaml, read_json):
        try:
            reader(text, "x").validated(Anything)
        except DocumentError as error:
            assert str(error).startswith("x")
