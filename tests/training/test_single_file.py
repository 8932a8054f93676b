"""A base model that is a checkpoint in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from concept_conductor import ConceptConductorPipeline
from concept_conductor.cli import main
from tests.conftest import TINY
from tests.stability import checkpoint


@pytest.fixture
def single_file(tmp_path: Path, tiny_pipe: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny model in Stability's own layout, its configuration from the folder in place of the hub."""
    file = tmp_path / "models" / "tiny.safetensors"
    file.parent.mkdir()
    save_file(checkpoint(tiny_pipe), file)
    load = StableDiffusionPipeline.from_single_file

    def configured(source: str, **kwargs: Any) -> StableDiffusionPipeline:
        return load(source, config=str(TINY), **kwargs)

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", configured)
    return file


def train(photos: Path, model: str, name: str) -> Path | None:
    """What ``conductor train`` makes in one step; None where it fails."""
    recipe = photos.parent / f"{name}.yaml"
    content = {
        "model": model, "images": photos.name, "output": f"{name}.safetensors", "placeholders": "<toy_1>+<toy_2>",
        "class_word": "a", "steps": 1, "resolution": 64, "samples": {"prompts": []},
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit) as left:
        main(["train", str(recipe)])
    return None if left.value.code else photos.parent / f"{name}.safetensors"


def test_a_concept_is_trained_on_it_as_on_the_folder(photos: Path, single_file: Path) -> None:
    of_file = train(photos, "models/tiny.safetensors", "of_file")
    of_folder = train(photos, str(TINY), "of_folder")
    assert of_file is not None and of_folder is not None
    ours, theirs = load_file(of_file), load_file(of_folder)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_file_that_is_no_checkpoint(photos: Path, single_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    single_file.write_bytes(b"no weights")
    assert train(photos, "models/tiny.safetensors", "of_file") is None
    error = capsys.readouterr().err
    assert f"the checkpoint '{single_file}' could not be read: it is damaged" in error
    assert not (photos.parent / "of_file.training").exists()
