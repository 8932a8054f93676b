"""The inversion cache: hits, keys, damage."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from concept_conductor import ConceptConductorPipeline, ConceptPrompt, Inversion, Layout
from concept_conductor.method.inversion import visited_timesteps
from concept_conductor.method.multipath import Multipath
from tests.compare import ROUNDING, assert_close, relative
from tests.conftest import TINY, tiny_image


@pytest.fixture
def call(tiny_call: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return {
        **tiny_call,
        "num_inference_steps": 5,
        "refinement": None,
        "inversion": Inversion(steps=10, cache=tmp_path),
        "latents": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)),
    }


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[slice]:
    """Records every forward that is one of an inversion."""
    seen: list[slice] = []
    original = Multipath.predict

    def count(self: Multipath, *arguments: Any, fusion: Any = None) -> torch.Tensor:
        if fusion is None and len(arguments) == 4:
            seen.append(arguments[3])
        return original(self, *arguments, *(() if len(arguments) >= 5 else (fusion,)))

    monkeypatch.setattr(Multipath, "predict", count)
    return seen


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_a_second_run_inverts_nothing_and_gives_the_same(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path, forwards: list[slice]
) -> None:
    first = tiny_pipe(**call).images
    inverted = len(forwards)
    assert inverted > 0 and len(entries(tmp_path)) == 1
    assert relative(tiny_pipe(**call).images, first) < ROUNDING
    assert len(forwards) == inverted


def test_other_concepts_share_the_entry_but_another_model_or_prompt_does_not(
    tiny_pipe: ConceptConductorPipeline,
    tiny_concepts: dict[str, ConceptPrompt],
    call: dict[str, Any],
    tmp_path: Path,
) -> None:
    tiny_pipe(**call)
    tiny_pipe(**{**call, "concepts": [tiny_concepts["red_robot"], tiny_concepts["chow_dog"]]})
    assert len(entries(tmp_path)) == 1

    layout: Layout = call["layout"]
    tiny_pipe(**{**call, "layout": Layout(layout.image, "Something else.", layout.masks)})
    tiny_pipe(**{**call, "layout": Layout(tiny_image("init"), layout.prompt, layout.masks)})
    assert len(entries(tmp_path)) == 3

    weight = tiny_pipe.unet.conv_in.weight
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0, 0, 0, 0] += 0.5
        tiny_pipe(**call)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert len(entries(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["cut", "bytes", "empty", "other"])
def test_a_damaged_entry_is_said_and_computed_anew(
    tiny_pipe: ConceptConductorPipeline,
    call: dict[str, Any],
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = tiny_pipe(**call).images
    (entry,) = entries(tmp_path)
    content = entry.read_bytes()
    flipped = content[:-3] + bytes([content[-3] ^ 255]) + content[-2:]
    entry.write_bytes({"cut": content[:-100], "bytes": flipped, "empty": b"", "other": b"no safetensors"}[damage])
    with caplog.at_level(logging.WARNING):
        assert relative(tiny_pipe(**call).images, first) < ROUNDING
    assert "is damaged" in caplog.text and "computed anew" in caplog.text
    assert_close(load(entry.read_bytes()), load(content), atol=1e-4)


def test_a_folder_that_cannot_be_written_does_not_end_the_run(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "a file, no folder"
    file.touch()
    with caplog.at_level(logging.WARNING):
        tiny_pipe(**{**call, "inversion": Inversion(steps=10, cache=file / "cache")})
    assert "could not be cached" in caplog.text


def test_a_model_that_moved_keeps_its_entries(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path
) -> None:
    tiny_pipe(**call)
    shutil.copytree(TINY, tmp_path / "elsewhere" / "model")
    moved = ConceptConductorPipeline.from_pretrained(tmp_path / "elsewhere" / "model")
    moved.set_progress_bar_config(disable=True)
    moved(**call)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


def test_no_cache_writes_nothing(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONCEPT_CONDUCTOR_CACHE", str(tmp_path))
    tiny_pipe(**{**call, "inversion": Inversion(steps=10, cache=False)})
    assert not entries(tmp_path)
    tiny_pipe(**{**call, "inversion": Inversion(steps=10)})
    assert len(entries(tmp_path / "inversion")) == 1


def test_visited_timesteps_are_the_schedulers(tiny_pipe: ConceptConductorPipeline) -> None:
    backbone = tiny_pipe.backbone
    for steps in (10, 250, 999):
        backbone.inverse_scheduler.set_timesteps(steps)
        assert visited_timesteps(backbone, steps) == backbone.inverse_scheduler.timesteps.tolist()


@pytest.mark.parametrize(("paths_per_forward", "widest"), [(None, 3), (1, 1), (2, 2)])
def test_layout_features_take_no_wider_forwards_than_asked_for(
    tiny_pipe: ConceptConductorPipeline,
    call: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    paths_per_forward: int | None,
    widest: int,
) -> None:
    rows: list[int] = []
    original = Multipath.layout_keys

    def count(self: Multipath, latents: torch.Tensor, t: torch.Tensor, *others: Any) -> torch.Tensor:
        if t.ndim:  # several timesteps: the reference's features, not an alignment
            rows.append(len(latents))
        return original(self, latents, t, *others)

    monkeypatch.setattr(Multipath, "layout_keys", count)
    tiny_pipe(**{**call, "num_inference_steps": 10}, paths_per_forward=paths_per_forward)
    assert sum(rows) == 4  # steps 0 to 3 of 10 are aligned
    assert max(rows) == widest
