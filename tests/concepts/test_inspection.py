"""What `conductor concept` says and does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from concept_conductor.cli import main
from concept_conductor.concepts import load_concept
from concept_conductor.concepts.inspection import inspect
from tests.concepts.conftest import concept
from tests.conftest import TINY


def conductor(*words: str | Path) -> int:
    """Exit status of the command."""
    with pytest.raises(SystemExit) as left:
        main(list(map(str, words)))
    return int(left.value.code or 0)


def test_a_report_counts_every_tensor() -> None:
    report = inspect(TINY / "chow_dog.pth")
    stored = torch.load(TINY / "chow_dog.pth", weights_only=True)["params"]
    assert report.problem is None
    assert report.family == "sd15"
    assert report.tensors == sum(len(table) for table in stored.values())
    assert report.parameters == sum(tensor.numel() for table in stored.values() for tensor in table.values())
    assert sum(group.layers for group in report.weights) == 128 + 8
    assert {group.goes_to for group in report.weights} >= {"U-Net attn2.to_out.0", "text encoder 1 self_attn.q_proj"}
    assert [token.placeholder for token in report.tokens] == ["<chow_dog_1>", "<chow_dog_2>"]


def test_it_prints(tmp_path: Path) -> None:
    console = Console(record=True, width=120, file=open(tmp_path / "out", "w"))  # noqa: SIM115
    console.print(inspect(concept(2).save(tmp_path / "toy.safetensors")))
    text = console.export_text()
    console.file.close()
    assert "SDXL" in text
    assert "<toy_1>" in text
    assert "author" in text


def test_the_command_inspects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert conductor("concept", "inspect", TINY / "chow_dog.pth", "--json") == 0
    assert json.loads(capsys.readouterr().out)["family"] == "sd15"
    (tmp_path / "bad.pth").write_bytes(b"")
    assert conductor("concept", "inspect", tmp_path / "bad.pth", "--json") == 1
    assert "empty" in json.loads(capsys.readouterr().out)["problem"]
    assert conductor("concept", "inspect", tmp_path / "missing.pth") == 1


def test_the_command_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert conductor("concept", "convert", TINY / "chow_dog.pth", tmp_path / "chow.safetensors") == 0
    assert conductor("concept", "convert", tmp_path / "chow.safetensors", tmp_path / "x", "--format", "mixofshow") == 0
    assert load_concept(tmp_path / "x").placeholders == ("<chow_dog_1>", "<chow_dog_2>")
    capsys.readouterr()
    assert conductor("concept", "convert", tmp_path / "x", tmp_path / "y.bin") == 1
    assert "--format" in capsys.readouterr().err
    assert not (tmp_path / "y.bin").exists()
