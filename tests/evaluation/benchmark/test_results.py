"""Jobs, the folder of results, tables and the page: with real images by the tiny model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.generate import ImageWorker
from concept_conductor.evaluation.benchmark.jobs import Job, chosen_methods, plan
from concept_conductor.evaluation.benchmark.mini_images import layout_of, references_of
from concept_conductor.evaluation.benchmark.results import ResultsFolder, check_sizes, read_manifest
from concept_conductor.evaluation.benchmark.runner import LocalRunner, run
from concept_conductor.evaluation.benchmark.shipped import open_benchmark
from concept_conductor.evaluation.evaluate import places_of
from concept_conductor.io.images import load_image
from concept_conductor.io.temporary import temporary_name
from concept_conductor.recipes.provenance import Provenance
from tests.compare import assert_same_image


def jobs_of(benchmark: Benchmark, folder: ResultsFolder) -> list[Job]:
    return plan(benchmark, chosen_methods(benchmark), folder.layouts)


@pytest.fixture
def opened(benchmark_file: Path, tmp_path: Path) -> tuple[Benchmark, ResultsFolder, list[Job]]:
    benchmark = Benchmark.load(benchmark_file)
    folder = ResultsFolder.open(tmp_path / "results", benchmark)
    return benchmark, folder, jobs_of(benchmark, folder)


class Counting(LocalRunner):
    """Counts what it is asked for, and is interrupted before one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.asked: list[str] = []
        self.stop = stop

    def generate_all(self, jobs, on_step):  # type: ignore[no-untyped-def]
        for job, result in super().generate_all(jobs, on_step):
            if len(self.asked) == self.stop:
                raise KeyboardInterrupt
            self.asked.append(job.key)
            yield job, result


def test_jobs_differ_in_all_that_makes_an_image(benchmark_file: Path, opened) -> None:
    benchmark, folder, jobs = opened
    assert len(jobs) == len({job.key for job in jobs}) == 2 * 4 * 2
    assert [job.key for job in jobs_of(benchmark, folder)] == [job.key for job in jobs]
    text = benchmark_file.read_text()
    same = ("cache: inversions", "cache: elsewhere"), ("steps: 2, w", "paths_per_forward: 1, steps: 2, w")
    other = ("on the beach", "at the beach"), ("steps: 2, w", "guidance_scale: 3.0, steps: 2, w")
    for changes, equal in ((same, True), (other, False)):
        for old, new in changes:
            benchmark_file.write_text(text.replace(old, new))
            changed = jobs_of(Benchmark.load(benchmark_file), folder)
            assert (changed[0].key == jobs[0].key) is equal, (old, new)
    benchmark_file.write_text(text)
    Image.new("L", (64, 64), 255).save(benchmark_file.with_name("mask1.png"))
    assert jobs_of(benchmark, folder)[0].key != jobs[0].key


def test_a_run_goes_on_where_it_stopped_and_redoes_nothing(opened) -> None:
    benchmark, folder, jobs = opened
    jobs = jobs[:6]
    first = Counting(stop=2)
    with pytest.raises(KeyboardInterrupt):
        run(folder, jobs, first, lambda job: None)
    assert first.asked == [job.key for job in jobs[:2]]
    before = folder.image(jobs[0].key).stat().st_mtime_ns
    folder.image(jobs[1].key).write_bytes(b"damaged")  # as a failing disk would
    second, done = Counting(), []
    run(folder, jobs, second, lambda job: done.append(job.key))
    assert second.asked == [job.key for job in jobs[1:]]
    assert sorted(done) == sorted(job.key for job in jobs)
    assert folder.image(jobs[0].key).stat().st_mtime_ns == before
    assert not list(folder.path.rglob("*.part"))
    manifest = folder.write_manifest(benchmark, jobs, "finished")
    assert manifest["jobs"] == {"asked": 6, "finished": 6}
    assert read_manifest(folder.path) == json.loads(json.dumps(manifest, default=str))
    entry = manifest["images"][0]
    assert entry["seconds"] > 0
    assert entry["peak_memory_bytes"] > 10**7
    assert entry["versions"]["torch"]
    assert Provenance.read(folder.image(jobs[0].key)).seed == jobs[0].seed
    assert folder.masks(jobs[0].key).shape == (2, 8, 8)
    assert check_sizes(folder, jobs) == (64, 64)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def without(*names: str):
    def change(file: Path) -> None:
        kept = {key: value for key, value in json.loads(file.read_text()).items() if key not in names}
        file.write_text(json.dumps(kept))

    return change


def test_what_a_run_made_it_makes_again_where_it_is_damaged(opened) -> None:
    _, folder, jobs = opened
    (job,) = jobs[:1]
    run(folder, [job], LocalRunner(), lambda job: None)
    record = folder.path / "images" / f"{job.key}.json"
    harms = {
        folder.image(job.key): (cut, Path.unlink),
        folder.masks_file(job.key): (cut, Path.unlink),
        record: (cut, Path.unlink, without("seconds"), without("masks_sha256"), without("provenance")),
    }
    for file, changes in harms.items():
        whole = file.read_bytes()
        for change in changes:
            change(file)
            assert folder.missing([job]) == [job], (file, change)
            with pytest.raises(ConductorError, match="is gone or damaged; run again to make it"):
                folder.masks(job.key)
            file.write_bytes(whole)
    assert folder.missing([job]) == []
    assert folder.masks(job.key).shape == (2, 8, 8)


def test_damaged_drawings_are_drawn_again(tmp_path: Path) -> None:
    benchmark = open_benchmark("mini-look-alikes").subset("ci")
    (scene,) = benchmark.scenes()

    def drawn() -> dict[Path, bytes]:
        layout_of(benchmark, scene, tmp_path / "layouts")
        references_of(benchmark, "dog-noto", tmp_path / "references")
        return {file: file.read_bytes() for file in tmp_path.rglob("*.png")}

    first = drawn()
    assert len(first) == 3 + 4
    for file in first:
        cut(file)
        assert drawn() == first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("references"), "manifest.json: 'references' is missing; expected it here"),
        (without("methods"), "manifest.json: 'methods' is missing"),
        (
            lambda file: file.write_text(file.read_text().replace('"prompt"', '"prompd"')),
            "'images[0].prompt' is missing",
        ),
        (lambda file: file.write_text(file.read_text().replace('"chow": [', '"shiba": [')), "no references of 'chow'"),
        (lambda file: file.write_text('{"format": 9, "methods": {}, "references": {}, "images": []}'), "of format 9"),
        (
            lambda file: file.write_text(re.sub(r'"key": "\w+"', '"key": "../../x"', file.read_text())),
            "'images[0].key'",
        ),
        (lambda file: file.write_text("[1"), "holds no results (manifest.json is missing or damaged); run conductor"),
    ],
)
def test_a_manifest_that_lacks_something_is_one_sentence(tmp_path: Path, change, said: str) -> None:
    image = {"key": "0" * 32, "method": "full", "combination": "a", "prompt": "1", "text": "A chow.", "seed": 0}
    manifest = {
        "format": 1,
        "methods": {"full": "full method"},
        "references": {"chow": ["references/chow.png"]},
        "images": [{**image, "concepts": ["chow"]}],
    }
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(manifest))
    assert read_manifest(tmp_path) == manifest
    change(file)
    with pytest.raises(ConductorError) as raised:
        read_manifest(tmp_path)
    assert said in str(raised.value) and len(str(raised.value).splitlines()) == 1


def test_a_damaged_stamp_is_written_anew_where_everything_else_is_ours(opened) -> None:
    benchmark, folder, _ = opened
    (folder.path / "images").mkdir()
    cut(folder.path / "benchmark.json")
    ResultsFolder.open(folder.path, benchmark)
    assert json.loads((folder.path / "benchmark.json").read_text())["benchmark"] == "tiny"
    cut(folder.path / "benchmark.json")
    temporary_name(folder.path / "benchmark.json").touch()  # of a killed run
    ResultsFolder.open(folder.path, benchmark)
    cut(folder.path / "benchmark.json")
    (folder.path / "holiday.jpg").touch()
    with pytest.raises(ConductorError, match="holds other files and no results"):
        ResultsFolder.open(folder.path, benchmark)


def test_images_do_not_depend_on_their_order(opened) -> None:
    _, _, jobs = opened
    forwards, backwards = ImageWorker(), ImageWorker()
    chosen = [jobs[0], jobs[2], jobs[5]]
    one = {job.key: forwards.generate(job).image for job in chosen}
    other = {job.key: backwards.generate(job).image for job in reversed(chosen)}
    for key, image in one.items():  # anything left of the image before would change the seed's noise: every pixel
        assert_same_image(image, other[key])
    first, second = (image.astype(int) for image in list(one.values())[:2])
    assert np.abs(first - second).mean() > 1


def test_methods_change_the_recipe(opened) -> None:
    _, _, jobs = opened
    full, other = (next(job for job in jobs if job.group.method.name == name) for name in ("full", "no-alignment"))
    worker = ImageWorker()
    records = [worker.generate(job).record["provenance"]["recipe"] for job in (full, other)]
    assert records[0]["alignment"] is not None
    assert records[1]["alignment"] is None
    assert records[0]["seeds"] == records[1]["seeds"]


def test_unknown_methods(opened) -> None:
    with pytest.raises(ConductorError, match="there is no method 'best'; expected some of full"):
        chosen_methods(opened[0], ["best"])


def test_folders_of_other_things(benchmark_file: Path, opened, tmp_path: Path) -> None:
    _, folder, _ = opened
    benchmark_file.write_text(benchmark_file.read_text().replace("version: 1", "version: 2"))
    newer = Benchmark.load(benchmark_file)
    with pytest.raises(
        ConductorError, match=r"holds results of tiny version 1 \(format 1\), but this is tiny version 2"
    ):
        ResultsFolder.open(folder.path, newer)
    with pytest.raises(ConductorError, match="holds other files and no results"):
        ResultsFolder.open(benchmark_file.parent, newer)
    with pytest.raises(ConductorError, match="is a file; expected a folder"):
        ResultsFolder.open(benchmark_file, newer)
    with pytest.raises(ConductorError, match="holds no results"):
        read_manifest(tmp_path)


def test_images_of_other_sizes(opened) -> None:
    _, folder, jobs = opened
    run(folder, jobs[:2], LocalRunner(), lambda job: None)
    Image.new("RGB", (32, 64)).save(folder.image(jobs[1].key))
    with pytest.raises(ConductorError, match="has 32x64 pixels, but the others have 64x64"):
        check_sizes(folder, jobs[:2])


def test_places_come_from_masks_or_boxes(benchmark_file: Path, opened) -> None:
    _, folder, jobs = opened
    assert places_of(jobs[0], (64, 64)) == tuple(benchmark_file.with_name(f"mask{n}.png") for n in (1, 2))
    text = benchmark_file.read_text()
    width, height = load_image(benchmark_file.with_name("ref.png")).size
    boxes = f"boxes: [[0, 0, {width // 2}, {height}], [{width // 2}, 0, {width}, {height}]]"
    for places, known in ((boxes, ((0, 0, 0.5, 1), (0.5, 0, 1, 1))), ("points: [[20, 20], [90, 90]]", ())):
        benchmark_file.write_text(text.replace("masks: [mask1.png, mask2.png]", places))
        job = jobs_of(Benchmark.load(benchmark_file), folder)[0]
        assert places_of(job, (64, 64)) == known
    made = f"layout:\n  {boxes}\n  words: [dog, cat]\n  size: [{width}, {height}]\n"
    benchmark_file.write_text(text[: text.index("layout:")] + made + text[text.index("seeds:") :])
    assert places_of(jobs_of(Benchmark.load(benchmark_file), folder)[0], (64, 64)) == ((0, 0, 0.5, 1), (0.5, 0, 1, 1))


@pytest.mark.slow
def test_a_killed_run_loses_and_redoes_nothing(benchmark_file: Path, opened, tmp_path: Path) -> None:
    benchmark, folder, jobs = opened
    program = "import torch; torch.set_num_threads(1); from concept_conductor.cli import main; main()"
    words = ["evaluate", str(benchmark_file), "--only-images", "--out", str(folder.path)]
    with open(tmp_path / "err", "wb") as errors:
        process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=errors, stderr=errors)
    deadline = time.monotonic() + 240
    while not list(folder.path.glob("images/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "err").read_text()
    finished = {job.key: folder.image(job.key).stat().st_mtime_ns for job in jobs if folder.record(job.key)}
    assert 0 < len(finished) < len(jobs)
    again = Counting()
    run(folder, jobs, again, lambda job: None)
    assert again.asked == [job.key for job in jobs if job.key not in finished]
    assert {key: folder.image(key).stat().st_mtime_ns for key in finished} == finished
    assert folder.write_manifest(benchmark, jobs, "finished")["jobs"] == {"asked": len(jobs), "finished": len(jobs)}
