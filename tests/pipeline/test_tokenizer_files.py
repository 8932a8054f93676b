"""Tokenizers out of model folders: as transformers reads them, or refused in one sentence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

from concept_conductor.backbones.model_files import ModelFiles
from concept_conductor.errors import ConductorError
from concept_conductor.mini import MODEL_FOLDER
from concept_conductor.pipeline.tokenizer_files import read_tokenizer
from tests.conftest import TINY, TINY_XL
from tests.pipeline.conftest import edit

ROWS, POSITIONS = 514, 77
TEXTS = ("a dog on the beach", "A Dog, 3 cats! <|endoftext|> x <|startoftext|>", "é ñ 漢字 🎉 ! !", "<a> it's I'll", "")


def read(folder: Path, part: str = "tokenizer", rows: int = ROWS, positions: int = POSITIONS) -> CLIPTokenizer:
    return read_tokenizer(ModelFiles(folder), part, rows, positions)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with the tiny SDXL's second tokenizer alone, whose padding is another token than its end."""
    shutil.copytree(TINY_XL / "tokenizer_2", tmp_path / "tokenizer")
    return tmp_path


def config(**fields: Any) -> Callable[[Path], None]:
    return lambda part: edit(part / "tokenizer_config.json", **fields)


def without(name: str) -> Callable[[Path], None]:
    return lambda part: edit(part / "tokenizer_config.json", lambda data: data.pop(name))


def assert_as_transformers(folder: Path, part: str, rows: int, positions: int) -> None:
    ours, theirs = read(folder, part, rows, positions), CLIPTokenizer.from_pretrained(folder / part)
    for text in TEXTS:
        assert ours(text).input_ids == theirs(text).input_ids
        assert ours(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False).input_ids
        assert ours.decode(ours(text).input_ids) == theirs.decode(theirs(text).input_ids)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "model_max_length"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_vocab() == theirs.get_vocab()
    assert repr(ours.added_tokens_decoder) == repr(theirs.added_tokens_decoder)


@pytest.mark.parametrize(
    ("model", "part", "rows", "positions"),
    [
        (TINY, "tokenizer", ROWS, POSITIONS),
        (TINY_XL, "tokenizer_2", ROWS, POSITIONS),
        (MODEL_FOLDER, "tokenizer", 918, 32),  # tokenizer.json alone
    ],
)
def test_it_reads_as_transformers_does(model: Path, part: str, rows: int, positions: int) -> None:
    assert_as_transformers(model, part, rows, positions)


def test_older_layouts(folder: Path) -> None:
    """Without ``added_tokens_decoder`` the special tokens' map counts, whose padding SD2.1's settings contradict."""
    part = folder / "tokenizer"
    without("added_tokens_decoder")(part)
    config(pad_token="<|endoftext|>")(part)
    assert read(folder).pad_token == "!"
    assert_as_transformers(folder, "tokenizer", ROWS, POSITIONS)
    (part / "special_tokens_map.json").unlink()
    assert read(folder).pad_token == "<|endoftext|>"
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    config(bos_token={"__type": "AddedToken", "content": "<|startoftext|>", **flags})(part)
    (part / "added_tokens.json").write_text('{"<toy>": 514}')
    assert_as_transformers(folder, "tokenizer", ROWS + 1, POSITIONS)
    CLIPTokenizer.from_pretrained(part).save_pretrained(folder / "tokenizer_2")
    assert not (folder / "tokenizer_2" / "vocab.json").exists()
    assert_as_transformers(folder, "tokenizer_2", ROWS + 1, POSITIONS)


def test_a_length_that_is_not_said_is_the_text_encoders(folder: Path) -> None:
    for change in (config(model_max_length=int(1e30)), without("model_max_length")):
        change(folder / "tokenizer")
        assert read(folder).model_max_length == POSITIONS


def vocabulary(change: Callable[[dict[str, int]], Any]) -> Callable[[Path], None]:
    return lambda part: edit(part / "vocab.json", change)


def whole(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """The mini model's tokenizer.json, changed, in the place of the files."""

    def do(part: Path) -> None:
        shutil.rmtree(part)
        shutil.copytree(MODEL_FOLDER / "tokenizer", part)
        edit(part / "tokenizer.json", change)
        config(model_max_length=POSITIONS)(part)

    return do


def written(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda part: (part / name).write_bytes(content)


FOREIGN = "is not the CLIP tokenizer of this model"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda part: (part / "merges.txt").unlink(), r"lacks tokenizer/merges\.txt"),
        (lambda part: (part / "vocab.json").unlink(), r"lacks tokenizer/vocab\.json"),
        (shutil.rmtree, r"lacks tokenizer/merges\.txt"),
        (written("vocab.json", b"{}"), f"{FOREIGN} .it has 3 tokens"),
        (written("vocab.json", b"\xff\xfe\0"), r"vocab\.json' is not UTF-8 text"),
        (written("vocab.json", b'["a"]'), "holds no JSON object"),
        (written("vocab.json", b'{"a": 0, "a": 1}'), "'a' stands there twice"),
        (written("merges.txt", b"#version: 0.2\na b c\n"), "its merges are no pairs"),
        (written("merges.txt", b"#version: 0.2\na b\n"), "it merges 'a' and 'b', which are not in its vocabulary"),
        (vocabulary(lambda ids: ids.update({"#": 10**6})), f"{FOREIGN}.*numbered up to 1,000,000"),
        (vocabulary(lambda ids: ids.update({"!": -1})), "no table of numbers"),
        (vocabulary(lambda ids: ids.update({"!": 1.5})), "no table of numbers"),
        (vocabulary(lambda ids: ids.update({"!": 1})), FOREIGN),
        (vocabulary(lambda ids: ids.update(beach=514)), "it has 515 tokens"),
        (vocabulary(lambda ids: ids.pop("!</w>")), "it has 513 tokens"),
        (vocabulary(lambda ids: ids.update(beach=ids.pop("!</w>"))), "its merges never make the token 'beach'"),
        (config(model_max_length=10), "'model_max_length' is 10, but its text encoder reads 77 tokens; expected 77"),
        (config(model_max_length=10**9), "'model_max_length' is 1000000000"),
        (config(model_max_length=-1), "'model_max_length' is -1"),
        (config(model_max_length="x"), "'model_max_length' is 'x'"),
        (config(tokenizer_class="T5Tokenizer"), "'tokenizer_class' is 'T5Tokenizer'; expected 'CLIPTokenizer'"),
        (config(do_lower_case=False), "'do_lower_case' is False; expected True"),
        (config(add_prefix_space=True), "'add_prefix_space' is True"),
        (config(auto_map={"AutoTokenizer": ["x.py", None]}), "'auto_map'"),
        (config(a_new_setting=1), "'a_new_setting' is not known here and might change how texts are read"),
        (config(pad_token=3), "'pad_token' is 3; expected a token"),
        (config(pad_token="<pad>"), "its pad_token '<pad>' is not in its vocabulary"),
        (config(added_tokens_decoder={"99999": {"content": "beach"}}), f"{FOREIGN}.*numbered up to 99,999"),
        (config(added_tokens_decoder={"x": {"content": "beach"}}), "'added_tokens_decoder' is no table of numbers"),
        (config(added_tokens_decoder={"0": "beach"}), "where a token was expected"),
        (config(added_tokens_decoder={"0": {"content": "b", "normalized": 1}}), "where a token was expected"),
        (whole(lambda data: None), f"{FOREIGN} .it has 918 tokens"),
        (whole(lambda data: data["model"].update(type="Unigram")), "its model is another"),
        (whole(lambda data: data["model"].update(vocab=[["a", 0.0]])), "no table of numbers"),
        (whole(lambda data: data.update(normalizer=None)), "its normalizer is another"),
        (whole(lambda data: data.update(pre_tokenizer={"type": "Whitespace"})), "its pre_tokenizer is another"),
        (whole(lambda data: data.update(added_tokens=[{"id": "x"}])), "its added tokens have no numbers"),
    ],
)
def test_damaged_and_foreign_files(folder: Path, change: Callable[[Path], Any], sentence: str) -> None:
    change(folder / "tokenizer")
    with pytest.raises(ConductorError, match=sentence) as caught:
        read(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_two_tokenizers_in_one_folder(folder: Path) -> None:
    """Some would read the one and some the other."""
    saved = folder / "saved"
    read(folder).save_pretrained(saved)
    shutil.copy(saved / "tokenizer.json", folder / "tokenizer")
    assert_as_transformers(folder, "tokenizer", ROWS, POSITIONS)
    vocabulary(lambda ids: ids.update({"!": 1, '"': 0}))(folder / "tokenizer")
    with pytest.raises(ConductorError, match=r"its tokenizer\.json and vocab\.json differ"):
        read(folder)


def test_files_without_an_end(folder: Path) -> None:
    (folder / "tokenizer" / "merges.txt").unlink()
    os.mkfifo(folder / "tokenizer" / "merges.txt")
    with pytest.raises(ConductorError, match="no ordinary file"):
        read(folder)
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps({"x" * 17 * 2**20: 1}))
    (folder / "tokenizer" / "merges.txt").unlink()
    (folder / "tokenizer" / "merges.txt").write_text("")
    with pytest.raises(ConductorError, match="expected at most 16,777,216 bytes"):
        read(folder)
