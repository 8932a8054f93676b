"""Estimates of memory, against tensors that are counted as they are made."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from concept_conductor import ConceptConductorPipeline
from concept_conductor.memory.estimate import DryRun, MemoryOptions
from tests.memory.conftest import dry_run

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_without_data_as_much_is_alive_as_with(family: str, request: pytest.FixtureRequest) -> None:
    """The estimate against the same steps of the real tiny model, whose tensors are counted as they are made."""
    pipe: ConceptConductorPipeline = request.getfixturevalue({"sd15": "tiny_pipe", "sdxl": "tiny_xl"}[family])
    empty = dry_run(family)
    updates = [{name: type(u)(*(torch.zeros(h.shape) for h in u)) for name, u in empty.updates[1].items()}]
    real = DryRun(pipe.backbone, empty.settings, (128, 128), updates)
    for paths_per_forward in (None, 1):
        options = MemoryOptions(paths_per_forward=paths_per_forward)
        estimated, counted = empty.estimate(options), real.estimate(options)
        assert estimated.weights == counted.weights
        weights = sum(estimated.weights.values())
        for phase in estimated.phases:
            ours, theirs = estimated.phases[phase] - weights, counted.phases[phase] - weights
            assert ours == pytest.approx(theirs, rel=0.15), phase


def test_estimates_grow_with_what_is_asked_for() -> None:
    base = dry_run().estimate(MemoryOptions())
    for larger in (dry_run(concepts=2), dry_run(side=256)):
        grown = larger.estimate(MemoryOptions())
        assert grown.peak > base.peak
        assert all(grown.phases[phase] >= base.phases[phase] for phase in base.phases)
    assert dry_run(guidance_scale=1.0).estimate(MemoryOptions()).phases["injection"] < base.phases["injection"]
    half = dry_run(dtype=torch.float16).estimate(MemoryOptions())
    assert sum(half.weights.values()) * 2 == pytest.approx(sum(base.weights.values()), rel=0.01)
    assert half.phases["injection"] < base.phases["injection"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_every_saving_setting_saves(family: str) -> None:
    run = dry_run(family)
    base = run.estimate(MemoryOptions()).phases
    assert run.estimate(MemoryOptions(gradient_checkpointing=True)).phases["alignment"] < base["alignment"]
    assert run.estimate(MemoryOptions(paths_per_forward=1)).phases["alignment"] < base["alignment"]
    offloaded = run.estimate(MemoryOptions(offload=True)).phases
    assert all(offloaded[phase] < base[phase] for phase in base)


def image_alone(family: str = "sd15", side: int = 128, dtype: torch.dtype = torch.float32) -> DryRun:
    """A run that costs little to rehearse beside its decoding."""
    return dry_run(family, 0, side, dtype, alignment=None, refinement=None)


def test_tiling_saves_where_images_are_large() -> None:
    large = image_alone(side=1024)
    tiled, whole = (large.estimate(MemoryOptions(vae_tiling=tiling)).phases["image"] for tiling in (True, False))
    assert tiled < 0.6 * whole


def test_half_precision_decodes_sdxl_in_fp32() -> None:
    small, xl = (image_alone(family, dtype=torch.float16) for family in ("sd15", "sdxl"))
    need = [one.estimate(MemoryOptions(offload=True)) for one in (small, xl)]
    live = [estimate.phases["image"] - estimate.weights["VAE"] for estimate in need]
    assert live[1] > 1.8 * live[0]  # the same VAE, twice as wide


@pytest.mark.slow
def test_the_documented_table_is_what_the_estimates_print(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first row, by ``benchmarks/estimates.py`` itself."""
    estimates = runpy.run_path(str(ROOT / "benchmarks" / "estimates.py"))
    main_of_it = estimates["main"]
    monkeypatch.setitem(main_of_it.__globals__, "RUNS", estimates["RUNS"][:1])
    monkeypatch.setitem(main_of_it.__globals__, "CONCEPTS", estimates["CONCEPTS"][:1])
    main_of_it()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    documented = (ROOT / "docs" / "memory.md").read_text().splitlines()
    assert all(line in documented for line in printed)
