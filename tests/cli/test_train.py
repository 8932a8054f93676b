"""`conductor train`: from a folder or a checkpoint in one file, killed and gone on with, and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file

from concept_conductor import Concept, ConceptConductorPipeline
from concept_conductor.cli import main
from concept_conductor.pipeline import loading
from concept_conductor.training.trainer import Trainer, TrainingStep
from tests.conftest import TINY
from tests.stability import checkpoint
from tests.training.conftest import SIDE, assert_trained_alike, photos

__all__ = ["photos"]

RATE = 1e-3


def written(photos: Path, name: str, **changes: Any) -> Path:
    """The recipe of a short training, beside the folder of photos; it makes ``name``.safetensors."""
    content = {
        "model": str(TINY), "images": photos.name, "output": f"{name}.safetensors", "placeholders": "<toy_1>+<toy_2>",
        "class_word": "a", "steps": 6, "resolution": SIDE, "samples": {"prompts": []}, "checkpoint_every": 1,
        "learning_rates": {"embeddings": 10 * RATE, "text_encoder": RATE, "unet": RATE},
    }  # fmt: skip
    path = photos.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def status(path: Path) -> object:
    """What the command exits with."""
    with pytest.raises(SystemExit) as left:
        main(["train", str(path)])
    return left.value.code or 0


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(photos: Path, tmp_path: Path) -> None:
    killed, whole = written(photos, "killed", steps=10), written(photos, "whole", steps=10)
    program = "import torch; torch.set_num_threads(1); from concept_conductor.cli import main; main()"
    command = [sys.executable, "-c", program, "train", str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    kept = tmp_path / "killed.training" / "checkpoint.pt"
    deadline = time.monotonic() + 60
    while not kept.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert kept.exists()
    assert not (tmp_path / "killed.safetensors").exists()
    assert [status(path) for path in (killed, whole)] == [0, 0]
    ours, theirs = (Concept.load(tmp_path / f"{name}.safetensors") for name in ("killed", "whole"))
    assert_trained_alike(ours, theirs, RATE)
    logs = [
        np.loadtxt(tmp_path / f"{name}.training" / "log.csv", delimiter=",", skiprows=1) for name in ("killed", "whole")
    ]
    np.testing.assert_allclose(*logs, rtol=1e-3)


def test_ctrl_c_keeps_the_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Trainer._step

    def interrupted(trainer: Trainer, paths: object) -> TrainingStep:
        if trainer.done == 2:
            raise KeyboardInterrupt
        return step(trainer, paths)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert status(written(photos, "toy")) == 130
    assert "checkpoint is kept" in capsys.readouterr().err
    assert (tmp_path / "toy.training" / "checkpoint.pt").exists()
    assert not (tmp_path / "toy.safetensors").exists()


def test_the_command_names_bad_input(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(written(photos, "toy", steps="soon")) == 1
    assert "steps" in capsys.readouterr().err
    assert not (tmp_path / "toy.training").exists()


@pytest.fixture
def single_file(tmp_path: Path, tiny_pipe: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model in Stability's own layout, its configuration from the folder in place of the hub."""
    file = tmp_path / "models" / "tiny.safetensors"
    file.parent.mkdir()
    save_file(checkpoint(tiny_pipe), file)
    monkeypatch.setattr(loading, "configuration", lambda *_: TINY)
    return file


def test_a_concept_is_trained_on_a_single_file_as_on_the_folder(photos: Path, single_file: Path) -> None:
    """Not bit by bit: the weights came by different ways, and processors add numbers up by where they lie in memory."""
    recipes = (
        written(photos, "of_file", steps=1, model="models/tiny.safetensors"),
        written(photos, "of_folder", steps=1),
    )
    assert [status(path) for path in recipes] == [0, 0]
    of_file, of_folder = (Concept.load(path.with_suffix(".safetensors")) for path in recipes)
    assert_trained_alike(of_file, of_folder, RATE)


def test_a_single_file_that_is_no_checkpoint(
    photos: Path, single_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single_file.write_bytes(b"no weights")
    assert status(written(photos, "of_file", model="models/tiny.safetensors")) == 1
    error = capsys.readouterr().err
    assert f"the checkpoint '{single_file}' could not be read: it is damaged" in error
    assert not (photos.parent / "of_file.training").exists()
