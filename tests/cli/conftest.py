"""A recipe on the tiny model, and a pipeline that answers at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from concept_conductor import ConceptConductorPipeline, ConductorOutput
from concept_conductor.cli import main
from concept_conductor.recipes import model
from tests.conftest import TINY

RECIPE = """\
model: MODEL
prompt: A dog and a cat on the beach.
concepts:
  - file: chow_dog.pth
    replaces: [dog, cat]
  - file: siberian_cat.pth
    prompt: A <siberian_cat_1> <siberian_cat_2> and a <siberian_cat_1> <siberian_cat_2> on the beach.
    weight: 0.6
layout:
  image: ref.png
  prompt: A dog and a cat in the street.
  masks: [mask1.png, mask2.png]
steps: 2
inversion: {steps: 999, cache: false}
seeds: 0-1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe with copies of its files around it."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("chow_dog.pth", "siberian_cat.pth", "ref.png", "mask1.png", "mask2.png"):
        shutil.copy(TINY / name, folder)
    path = folder / "pets.yaml"
    path.write_text(RECIPE.replace("MODEL", str(TINY)))
    return path


class QuickPipe:
    """The tiny pipeline, but for its call, which draws a flat colour by the generator's seed."""

    def __init__(self, pipe: ConceptConductorPipeline) -> None:
        self.pipe = pipe
        self.calls: list[dict[str, Any]] = []
        self.errors: dict[int, BaseException] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pipe, name)

    def __call__(self, **arguments: Any) -> ConductorOutput:
        self.calls.append(arguments)
        seed = arguments["generator"].initial_seed()
        for step in range(arguments["num_inference_steps"]):
            latents = torch.zeros(1, 4, 16, 16)
            assert not arguments["callback_on_step_end"](self, step, 0, {"latents": latents})
        if seed in self.errors:
            raise self.errors[seed]
        size = (arguments["width"], arguments["height"])
        masks = torch.zeros(1, len(arguments["concepts"]), 16, 16, dtype=torch.bool)
        masks[:, :, :4] = True
        return ConductorOutput([Image.new("RGB", size, (seed, 10, 20))], masks)


@pytest.fixture
def quick(tiny_pipe: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch) -> QuickPipe:
    """Every model that is loaded is this one."""
    pipe = QuickPipe(tiny_pipe)
    monkeypatch.setattr(model, "load_pipeline", lambda *_, **__: pipe)
    return pipe


class Outcome:
    """What a command line left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


def assert_same_replay(outcome: Outcome) -> None:
    """``conductor replay --json`` made the same image again, to the rounding of its 256 levels."""
    assert outcome.status == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["max_difference"] <= 1 and report["mean_difference"] <= 0.01, report


@pytest.fixture
def conductor(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """Run the command in an empty folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*words: object) -> Outcome:
        with pytest.raises(SystemExit) as left:
            main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(left.value.code if isinstance(left.value.code, int) else 0, captured.out, captured.err)

    return run
