"""What `conductor concept` says and does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from concept_conductor.cli import main
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats.convert import ConceptFormat
from concept_conductor.concepts.inspection import inspect
from concept_conductor.errors import ConceptFileError
from tests.concepts.conftest import DIM, concept
from tests.concepts.files import same
from tests.conftest import TINY

TO_K = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k"


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
    assert Concept.load(tmp_path / "x").placeholders == ("<chow_dog_1>", "<chow_dog_2>")
    capsys.readouterr()
    assert conductor("concept", "convert", tmp_path / "x", tmp_path / "y.bin") == 1
    assert "--format" in capsys.readouterr().err
    assert not (tmp_path / "y.bin").exists()


@pytest.mark.parametrize("format", list(ConceptFormat))
def test_every_format_round_trips_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format: ConceptFormat
) -> None:
    """Into the format and back into ours: the same tensors; the report of each file counts them all."""
    kinds = {"ours": "Concept Conductor (safetensors)", "mixofshow": "ED-LoRA (Mix-of-Show .pth)"}
    kinds |= {"kohya": "kohya-ss LoRA", "diffusers": "diffusers LoRA"}
    start = Concept.load(TINY / "chow_dog.pth")
    if format in (ConceptFormat.kohya, ConceptFormat.diffusers):  # which hold no tokens
        start = replace(start, tokens=({},))
    first, there, back = start.save(tmp_path / "first.safetensors"), tmp_path / "there", tmp_path / "back.safetensors"
    assert conductor("concept", "convert", first, there, "--format", format.value) == 0
    assert conductor("concept", "convert", there, back) == 0
    capsys.readouterr()
    reports = []
    for file in (first, there, back):
        assert conductor("concept", "inspect", file, "--json") == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[1]["kind"] == kinds[format.value]
    for report in reports:
        for key in ("family", "phrase", "tokens", "weights", "tensors", "parameters", "dtypes", "problem"):
            assert report[key] == reports[0][key], key
    assert same(Concept.load(back), start)


def test_conversion_says_what_a_format_cannot_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for format in ("kohya", "diffusers"):
        assert conductor("concept", "convert", TINY / "chow_dog.pth", tmp_path / "x", "--format", format) == 1
        message = capsys.readouterr().err
        assert "low-rank weights only" in message and "<chow_dog_1>" in message and len(message.splitlines()) == 1
    several = Concept("mug", ({"<mug>": torch.randn(2, 1, DIM)},))
    with pytest.raises(ConceptFileError, match=r"<mug> \(2\)"):
        ConceptFormat.mixofshow.save(several, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_lora_and_its_embedding_are_converted_into_one_file(tmp_path: Path) -> None:
    lora, token, out = (tmp_path / f"{name}.safetensors" for name in ("lora", "token", "out"))
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    save_file({f"{layer}.lora_A.weight": torch.ones(2, 768), f"{layer}.lora_B.weight": torch.ones(4, 2)}, lora)
    save_file({"<mug>": torch.randn(3, 768)}, token)
    assert conductor("concept", "convert", lora, token, out) == 0
    report = inspect(out)
    assert (report.family, report.phrase) == ("sd15", "<mug>")
    assert [(table.positions, table.layers, table.dim) for table in report.tokens] == [(3, 1, 768)]
    assert [group.goes_to for group in report.weights] == ["U-Net attn2.to_k"]


def test_a_refused_file_is_named_and_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"lora_unet_x.hada_w1_a": torch.ones(2, 2)}, tmp_path / "loha.safetensors")
    assert conductor("concept", "inspect", tmp_path / "loha.safetensors", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert "LoHa" in report["problem"] and "not plain low rank" in report["problem"]
    assert report["size"] == (tmp_path / "loha.safetensors").stat().st_size
    assert conductor("concept", "inspect", tmp_path / "loha.safetensors") == 1
    assert "refused:" in capsys.readouterr().out


def test_a_folder_is_reported_as_one_concept(tmp_path: Path) -> None:
    save_file({"<mug>": torch.randn(768)}, tmp_path / "learned_embeds.safetensors")
    torch.save({f"{TO_K}_custom_diffusion.weight": torch.ones(4, 768)}, tmp_path / "weights.bin")
    report = inspect(tmp_path)
    assert report.path == tmp_path
    assert report.kind == "Custom Diffusion + textual inversion"
    assert report.size == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert report.weights[0].ranks == (4,)
