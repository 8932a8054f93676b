"""This project's own concept files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats import native
from concept_conductor.errors import ConductorError
from tests.concepts.conftest import concept
from tests.concepts.files import refused


def test_metadata_survives(tmp_path: Path) -> None:
    toy = concept()
    path = toy.save(tmp_path / "toy.safetensors")
    assert Concept.load(path).metadata == toy.metadata
    assert Concept.load(path).name == "toy"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == "concept-conductor"
    assert header["family"] == "sd15"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = concept().save(tmp_path / "toy.safetensors")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConductorError, match="disk is full"):
        concept().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["toy.safetensors"]


def test_our_own_suffix_is_not_needed(tmp_path: Path) -> None:
    assert Concept.load(native.save(concept(), tmp_path / "no_suffix")).name == "toy"


def header(**changes: str) -> dict[str, str]:
    return {
        "format": "concept-conductor",
        "format_version": "1",
        "placeholders": '["<a>"]',
        **changes,
    }


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        (header(format_version="99"), {}, ("version '99'", "update")),
        (header(placeholders="["), {}, ("placeholders", "JSON")),
        (header(placeholders="7"), {}, ("list",)),
        (header(placeholders='["<a>", "<a>"]'), {}, ("placeholders", "twice")),
        (header(), {"tokens.0.<b>": torch.ones(1, 2)}, ("<a>",)),
        (header(), {}, ("made for 0 text encoders",)),
        (header(format_version="2", text_encoders="3"), {}, ("made for 3 text encoders",)),
        (header(), {"unet.a.down": torch.ones(1, 2), "unet.a.weight": torch.ones(1, 2)}, ("one half",)),
        (header(), {"unet.a.down": torch.ones(1, 2)}, ("one half",)),
        (header(), {"stray": torch.ones(1)}, ("stray", "belong to nothing")),
        (header(), {"text_encoder.3.a.down": torch.ones(1, 2), "text_encoder.3.a.up": torch.ones(2, 1)}, ("nothing",)),
    ],
)
def test_malformed_files_of_ours(
    tmp_path: Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor], words: tuple[str, ...]
) -> None:
    tokens = {} if words[0].startswith(("<a>", "made")) else {"tokens.0.<a>": torch.ones(1, 2)}
    save_file({**tokens, **tensors}, tmp_path / "bad.safetensors", metadata=metadata)
    refused(tmp_path / "bad.safetensors", *words)
