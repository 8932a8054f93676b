"""What a training writes: whole files or none, and what cannot be written is told before the first step."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from concept_conductor.backbones.base import Backbone
from concept_conductor.errors import ConductorError
from concept_conductor.io import files
from concept_conductor.training.checkpoint import write
from concept_conductor.training.records import check_outputs
from concept_conductor.training.trainer import Trainer, train
from tests.training.conftest import recipe


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step would be one too many."""

    def step(self: Trainer, paths: object) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize(
    ("output", "taken", "said"),
    [
        ("toy.safetensors", "toy.safetensors", "toy.safetensors' is a folder; expected a file, choose another name"),
        (
            "toy.training",
            "",
            "has the name of the folder for checkpoints and samples; choose another ending, such as toy.",
        ),
        ("toy.safetensors", "toy.training/log.csv", "toy.training/log.csv' is a folder; expected a file"),
        ("photos/0.png/toy.safetensors", "", "photos/0.png' is a file, or lies in one; expected a folder"),
        (f"{'n' * 256}.safetensors", "", "has more than the 255 bytes that a file's may have"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_the_first_step(
    backbone: Backbone, photos: Path, tmp_path: Path, no_step: None, output: str, taken: str, said: str
) -> None:
    if taken:
        (tmp_path / taken).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConductorError) as raised:
        train(recipe(photos, output=tmp_path / output), backbone=backbone)
    assert said in str(raised.value) and len(str(raised.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_what_its_format_cannot_hold_is_told_before_the_first_step(
    backbone: Backbone, photos: Path, tmp_path: Path, no_step: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ConductorError("this format cannot hold it")

    monkeypatch.setattr("concept_conductor.concepts.formats.native.save", refuse)
    with pytest.raises(ConductorError, match="this format cannot hold it"):
        train(recipe(photos, output=tmp_path / "toy.safetensors"), backbone=backbone)
    assert not list(tmp_path.glob("*toy*"))


class FullFile(files._File):
    """On a disk where nothing but empty files has room, in a folder of a training."""

    def write(self, data: Any, /) -> int:
        self.full = OSError(errno.ENOSPC, "No space left on device")
        raise self.full


@pytest.mark.parametrize("name", ["log.csv", "curves.png", "samples-00002.png", "checkpoint.pt"])
def test_a_full_disk_is_told_with_the_file_and_leaves_earlier_ones_whole(
    backbone: Backbone, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    changes = {"output": tmp_path / "toy.safetensors", "steps": 2, "checkpoint_every": 1}
    config = recipe(photos, **changes, samples={"steps": 1, "weights": [1.0], "every": 2})
    earlier = config.folder / name
    earlier.parent.mkdir()
    earlier.write_bytes(b"earlier")
    plain = files._create

    def create(path: Path) -> Any:
        file, temporary = plain(path)
        if path.name != name:
            return file, temporary
        file.close()
        return FullFile(temporary, "wb"), temporary

    monkeypatch.setattr(files, "_create", create)
    with pytest.raises(ConductorError, match=rf"^the disk is full: '{earlier}' could not be written; free some space"):
        train(config, backbone=backbone, resume=False)
    if name != "checkpoint.pt":  # which a new training discards
        assert earlier.read_bytes() == b"earlier"
    assert not [file for file in config.folder.iterdir() if file.name.startswith(".")]
    assert not (tmp_path / "toy.safetensors").exists()


def test_a_checkpoint_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_File", FullFile)
    with pytest.raises(ConductorError, match=r"^the disk is full: '.*checkpoint.pt' could not be written"):
        write(tmp_path / "checkpoint.pt", {"w": list(range(10_000))}, {})
    assert not list(tmp_path.iterdir())


def test_a_file_that_can_be_written_is_no_reason_to_stop(photos: Path, tmp_path: Path) -> None:
    check_outputs(recipe(photos, output=tmp_path / "new" / "toy.safetensors"))
    assert not (tmp_path / "new").exists()
