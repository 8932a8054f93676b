"""The folder of a run: everything in it, and what other runs left there."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.recipes import run_folder
from concept_conductor.recipes.provenance import Provenance, versions
from concept_conductor.recipes.run_folder import RunFolder, check_results, with_other_runs
from concept_conductor.recipes.runner import GeneratedImage
from concept_conductor.recipes.schema.recipe import Recipe

MASKS = np.zeros((0, 8, 8), dtype=bool)


def run_of(folder: Path, *seeds: int) -> RunFolder:
    """A run of a recipe without concepts."""
    recipe = Recipe(prompt="a dog", seeds=seeds)
    provenance = Provenance(recipe=recipe, seed=0, folder=".", files={}, model=None, versions=versions())
    runner: Any = SimpleNamespace(recipe=recipe, concepts=[], layout=None, placement=None, provenance=provenance)
    return RunFolder(folder, runner, folder / "recipe.yaml", 0.5)


def image_of(run: RunFolder, seed: int) -> GeneratedImage:
    image = Image.new("RGB", (8, 8), (seed, 0, 0))
    return GeneratedImage(seed, image, MASKS, MASKS, 0.1, False, run.runner.provenance)


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def listed(folder: Path) -> list[str]:
    return [entry["file"] for entry in record(folder)["images"]]


def test_a_run_is_recorded_as_it_goes(tmp_path: Path) -> None:
    run = run_of(tmp_path, 1, 2)
    run.add(image_of(run, 1))
    assert (record(tmp_path)["status"], listed(tmp_path)) == ("running", ["seed-0001.png"])
    run.add(image_of(run, 2))
    run.close("finished")
    said = record(tmp_path)
    assert (said["status"], listed(tmp_path)) == ("finished", ["seed-0001.png", "seed-0002.png"])
    assert said["seeds"] == {"asked": [1, 2], "finished": [1, 2]}
    assert said["recipe"] == "recipe.yaml" and "other_runs" not in said
    assert sorted(os.listdir(tmp_path)) == ["grid.png", "run.json", "seed-0001.png", "seed-0002.png"]


def test_nothing_is_written_without_an_image(tmp_path: Path) -> None:
    run_of(tmp_path / "out", 1).close("failed")
    assert not (tmp_path / "out").exists()


def test_a_later_run_keeps_what_an_earlier_one_made(tmp_path: Path) -> None:
    first, second = run_of(tmp_path, 1, 2), run_of(tmp_path, 2, 3)
    for seed in (1, 2):
        first.add(image_of(first, seed))
    first.close("finished")
    for seed in (2, 3):
        second.add(image_of(second, seed))
    second.close("interrupted")
    said = record(tmp_path)
    assert [(entry["file"], entry["run"]) for entry in said["images"]] == [
        ("seed-0001.png", first.run),
        ("seed-0002.png", second.run),
        ("seed-0003.png", second.run),
    ]
    assert (said["status"], said["seeds"]["asked"]) == ("interrupted", [2, 3])
    assert list(said["other_runs"]) == [first.run]
    assert said["other_runs"][first.run]["status"] == "finished"
    assert said["other_runs"][first.run]["settings"]["seeds"] == [1, 2]
    assert "images" not in said["other_runs"][first.run]
    assert [entry["seed"] for entry in second.record("finished")["images"]] == [2, 3]


def test_two_runs_at_once_list_the_images_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = run_folder._read_record

    def slowly(path: Path) -> dict[str, Any]:
        found = read(path)
        time.sleep(0.01)  # so that the other run would write in between
        return found

    monkeypatch.setattr(run_folder, "_read_record", slowly)
    runs = [run_of(tmp_path, *range(5)), run_of(tmp_path, *range(5, 10))]

    def work(run: RunFolder) -> None:
        for seed in run.runner.recipe.seeds:
            run.add(image_of(run, seed))
        run.close("finished")

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = record(tmp_path)
    assert sorted(listed(tmp_path)) == [f"seed-{seed:04d}.png" for seed in range(10)]
    assert {said["run"], *said["other_runs"]} == {run.run for run in runs}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"images": 5}', '{"images": [{"file": 5}]}', '{"images": [], "run": []}', "\udcff"]
)
def test_a_damaged_record_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text, errors="surrogateescape")
    run = run_of(tmp_path, 1)
    run.add(image_of(run, 1))
    assert listed(tmp_path) == ["seed-0001.png"]


def test_images_that_are_gone_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "here.png").touch()
    images = [{"file": "here.png", "run": "b"}, {"file": "gone.png", "run": "c"}]
    earlier = {"run": "b", "images": images, "other_runs": {"c": {"status": "finished"}}}
    both = with_other_runs({"run": "a", "images": []}, earlier, tmp_path)
    assert both == {"run": "a", "images": images[:1], "other_runs": {"b": {}}}


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_results(tmp_path / "new/deep")
    check_results(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["file", "file/below", "dangling", "a" * 300, "/dev/null/x"])
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "x")
    with pytest.raises(ConductorError, match="choose another"):
        check_results(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_rights_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConductorError, match="nothing can be written to"):
        check_results(tmp_path / "new")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_a_file_system_that_takes_no_files_is_told() -> None:
    with pytest.raises(ConductorError, match="nothing can be written to '/proc/new'"):
        check_results(Path("/proc/new"))
