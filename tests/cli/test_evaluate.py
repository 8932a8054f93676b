"""`conductor evaluate` and `conductor study`, from files to pages."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from concept_conductor.cli import evaluate
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.results import ResultsFolder
from concept_conductor.evaluation.benchmark.runner import LocalRunner
from concept_conductor.evaluation.benchmark.shipped import open_benchmark
from tests.evaluation.benchmark.conftest import benchmark_file

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

__all__ = ["benchmark_file"]


def test_images_alone_and_once(conductor, benchmark_file: Path) -> None:
    words = ("evaluate", benchmark_file, "--subset", "one", "--only-images", "--out", "here")
    assert conductor(*words).out == "1 images in 'here'\n"
    (image,) = (file for file in Path("here/images").glob("*.png") if not file.stem.endswith("masks"))
    made = image.stat().st_mtime_ns
    assert conductor(*words, "--methods", "full,no-injection").out == "2 images in 'here'\n"
    assert image.stat().st_mtime_ns == made
    more = conductor(*words, "--methods", "full,no-injection,no-alignment")
    assert re.search(r"^3 of 3 images, \d+\.\d s each, 0:00:00 left: without alignment: ", more.err, re.MULTILINE)
    conductor(*words, "--methods", "full,no-injection")
    manifest = json.loads(Path("here/manifest.json").read_text())
    assert (manifest["status"], manifest["jobs"]) == ("finished", {"asked": 2, "finished": 2})


def test_interrupted_it_keeps_what_is_done_and_says_so(
    conductor, benchmark_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(LocalRunner):
        def generate_all(self, jobs, on_step):  # type: ignore[no-untyped-def]
            yield next(super().generate_all(jobs, on_step))
            raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "runner_for", lambda address: Interrupted())
    outcome = conductor("evaluate", benchmark_file, "--only-images", "--out", "here")
    assert outcome.status == 130
    assert "interrupted: 1 of 16 images are finished and kept in 'here'" in outcome.err
    assert json.loads(Path("here/manifest.json").read_text())["status"] == "interrupted"


def test_the_pace_counts_only_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = evaluate.Pace(100)
    assert pace.line(1) is None  # what was found takes no time
    pace.begin(40)
    now = 20.0
    assert pace.line(42) == "42 of 100 images, 10.0 s each, 0:09:40 left"
    now = 45.0
    assert pace.line(44) is None  # said half a minute ago
    now = 60.0
    assert pace.line(46) == "46 of 100 images, 10.0 s each, 0:09:00 left"
    assert pace.line(100) is not None  # the last one always


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--methods", "full,best"], "there is no method 'best'; expected some of full, "),
        (["--metrics", "beauty"], "there is no metric 'beauty'; expected some of "),
        (["--subset", "half"], "the benchmark 'tiny' has no subset 'half'; it has: one"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster answers at '127.0.0.1:1'"),
        (["--worker-cpus", "1"], "--worker-cpus is for workers on Ray; give --ray too"),
        (["--write", "copy.yaml"], "there is no shipped benchmark '"),
    ],
)
def test_bad_input_is_one_sentence(conductor, benchmark_file: Path, words: list[str], said: str) -> None:
    outcome = conductor("evaluate", benchmark_file, *words)
    assert outcome.status == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version: 1", "version: 2", "'here' holds results of tiny version 1 (format 1), but this is tiny version 2"),
        ("class_words: dog", "weight: 1.0", "line 7: 'concepts.chow': the concept has no 'class_words'"),
        (
            "    references: [ref.png]\n  siberian",
            "  siberian",
            "line 7: 'concepts.chow': the concept has no 'references'",
        ),
        ("[ref.png]", "[gone.png]", "line 10: 'concepts.chow.references[0]': there is no file"),
        ("file: chow_dog.pth", "file: gone.pth", "line 8: 'concepts.chow.file': there is no file"),
        ("[full, no-alignment]", "[full, best]", "there is no method 'best'; expected some of full"),
    ],
)
def test_bad_benchmarks_are_one_sentence(conductor, benchmark_file: Path, old: str, new: str, said: str) -> None:
    ResultsFolder.open(Path("here"), Benchmark.load(benchmark_file))
    text = benchmark_file.read_text()
    assert old in text
    benchmark_file.write_text(text.replace(old, new, 1))
    outcome = conductor("evaluate", benchmark_file, "--out", "here")
    assert outcome.status == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not Path("here/images").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--metrics", "design"], "the metric 'design' needs the embedded model's judge"),
        (["--metrics", "clip_t"], "the placeholder <x> in the prompt 'A dog and a <x> "),
    ],
)
def test_a_metric_that_cannot_measure_is_told_before_the_first_image(
    conductor, benchmark_file: Path, words: list[str], said: str
) -> None:
    benchmark_file.write_text(benchmark_file.read_text().replace("and a {2} on", "and a <x> {2} on"))
    outcome = conductor("evaluate", benchmark_file, *words, "--out", "here")
    assert outcome.status == 1
    assert said in outcome.err and len(outcome.err.splitlines()) == 1
    assert not Path("here/images").exists()


def test_a_concept_that_the_judge_does_not_know_is_told_before_the_first_image(conductor) -> None:
    conductor("evaluate", "mini-look-alikes", "--write", "mine.yaml")
    text = Path("mine.yaml").read_text()
    Path("mine.yaml").write_text(text.replace("dog-noto", "my-dog").replace("file: mini/my-dog", "file: mini/dog-noto"))
    outcome = conductor("evaluate", "mine.yaml", "--subset", "ci", "--out", "here")
    assert outcome.status == 1
    assert "the metric 'design' knows nothing of the concept 'my-dog'; name it CLASS-STYLE" in outcome.err
    assert not Path("here/images").exists()


@pytest.mark.parametrize("name", ["index.html", "summary.csv", "plots/means-light.svg"])
def test_what_is_in_a_results_way_is_told_before_the_first_image(conductor, name: str) -> None:
    words = ("evaluate", "mini-look-alikes", "--subset", "ci", "--methods", "full", "--metrics", "omission")
    ResultsFolder.open(Path("here"), open_benchmark("mini-look-alikes"))
    (Path("here") / name).mkdir(parents=True)
    outcome = conductor(*words, "--out", "here")
    assert outcome.status == 1
    assert f"'here/{name}' is a folder; expected a file" in outcome.err
    assert not Path("here/images").exists()


def test_a_shipped_benchmark_to_start_from(conductor) -> None:
    assert conductor("evaluate", "paper", "--write", "mine.yaml").status == 0
    assert Path("mine.yaml").read_text().startswith("# The paper's protocol")
    assert "is there already" in conductor("evaluate", "paper", "--write", "mine.yaml").err
    assert "line 20: 'concepts.dog6.file': there is no file" in conductor("evaluate", "mine.yaml").err


@pytest.mark.slow
def test_the_smallest_benchmark_from_end_to_end(conductor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONCEPT_CONDUCTOR_CACHE", str(Path("cache").absolute()))
    words = ("evaluate", "mini-look-alikes", "--subset", "ci", "--methods", "full,merged", "--out", "here")
    outcome = conductor(*words)
    assert outcome.status == 0, outcome.err
    assert "| LoRAs merged into one model |" in outcome.out
    results = pandas.read_parquet("here/results.parquet")
    assert results["method"].tolist() == ["full", "merged"]
    assert results["design"].between(0, 1).all()
    assert Path("here/index.html").stat().st_size > 50_000
    scored = {file: file.stat().st_mtime_ns for file in Path("here/scores").rglob("*.json")}
    assert conductor(*words).out == outcome.out
    assert {file: file.stat().st_mtime_ns for file in Path("here/scores").rglob("*.json")} == scored

    assert conductor("study", "here", "--images", "2").out == "here/study/index.html\n"
    key = json.loads(Path("here/study-key.json").read_text())
    with open("answers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["study", "rater", "image", "question", "answer"])
        for name, entry in key["images"].items():
            mark = 5 if entry["method"] == "full" else 2
            writer.writerows([key["study"], "me", name, question, mark] for question in ("text", "dog-noto"))
    table = conductor("study", "here", "--answers", "answers.csv", "answers.csv").out
    assert "| full method | 1 | 1 | 5.000 | 5.000 |" in table
    assert "| LoRAs merged into one model | 1 | 1 | 2.000 | 2.000 |" in table


def test_no_study_without_results(conductor) -> None:
    assert "holds no results" in conductor("study", ".").err
