"""The user study: blind, balanced, and read back from people's files with suspicion."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.report.study import FIELDS, KEY, Shown, choose, table, write_study

METHODS = ("full", "merged")


@pytest.fixture
def images(tmp_path: Path) -> list[Shown]:
    """Six scenes by two methods, in files that tell whose they are."""
    info = PngInfo()
    info.add_text("concept-conductor", "made by merged")
    reference = tmp_path / "toy.png"
    Image.new("RGB", (8, 8)).save(reference)
    made = []
    for seed in range(6):
        for method in METHODS:
            file = tmp_path / f"{method}-{seed}.png"
            Image.new("RGB", (8, 8), (seed, 0, len(method))).save(file, pnginfo=info)
            made.append(Shown(method, "a + b", "1", seed, "Two toys.", file, {"a": [reference], "b": [reference]}))
    return made


@pytest.fixture
def study(images: list[Shown], tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    write_study(folder, "Judging", choose(images, 8, seed=0), seed=0)
    return folder


def test_every_method_shows_the_same_scenes(images: list[Shown]) -> None:
    chosen = choose(images, 9, seed=0)
    assert len(chosen) == 8
    by_method = {method: {shown.seed for shown in chosen if shown.method == method} for method in METHODS}
    assert by_method["full"] == by_method["merged"]
    assert choose(images, 9, seed=0) == chosen
    assert choose(images, 9, seed=1) != chosen
    with pytest.raises(ConductorError, match="a study of 1 images by 2 methods needs scenes"):
        choose(images, 1, seed=0)


def test_the_page_does_not_tell_whose_an_image_is(study: Path) -> None:
    page = (study / "study" / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    key = json.loads((study / KEY).read_text())["images"]
    assert sorted(item["name"] for item in data["items"]) == sorted(key)
    assert [key[item["name"]]["method"] for item in data["items"]] != [entry["method"] for entry in key.values()]
    for name in METHODS:
        assert name not in json.dumps(data)
    for name in key:
        with Image.open(study / "study" / "images" / f"{name}.png") as image:
            assert "concept-conductor" not in image.info
    assert not (study / "study" / KEY).exists()


def answered(study: Path, rater: str, marks: dict[str, tuple[int, int, int]]) -> Path:
    """A person's file: for each method text, a and b."""
    key = json.loads((study / KEY).read_text())
    file = study / f"{rater}.csv"
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(FIELDS)
        for name, entry in key["images"].items():
            for question, mark in zip(("text", "a", "b"), marks[entry["method"]]):
                writer.writerow([key["study"], rater, name, question, mark])
    return file


def test_the_table_of_answers(study: Path) -> None:
    files = [
        answered(study, "one", {"full": (5, 4, 5), "merged": (3, 1, 2)}),
        answered(study, "two", {"full": (4, 4, 4), "merged": (1, 1, 1)}),
    ]
    rows = {row["method"]: row for row in table(study, files)}
    assert (rows["full"]["text"], rows["full"]["image"]) == (4.5, 4.25)
    assert (rows["merged"]["text"], rows["merged"]["image"]) == (2.0, 1.25)
    assert (rows["full"]["people"], rows["full"]["images"]) == (2, 4)
    assert table(study, [*files, files[0]]) == table(study, files)  # sent twice


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",5\r\n", ",6\r\n", "line 2: expected an answer from 1 to 5, not '6'"),
        (",text,", ",mood,", "line 2: the study has no question 'mood' on"),
        ("study,rater", "studie,rater", "line 2: expected the columns study, rater, image, question, answer"),
        ("\r\n", ",more\r\n", "line 3: expected the columns|line 2: expected the columns"),
    ],
)
def test_files_that_are_no_answers(study: Path, old: str, new: str, said: str) -> None:
    file = answered(study, "one", {"full": (5, 5, 5), "merged": (5, 5, 5)})
    with open(file, newline="") as stream:
        text = stream.read()
    assert old in text
    file.write_bytes(text.replace(old, new, 1).encode())
    with pytest.raises(ConductorError, match=said):
        table(study, [file])


def test_answers_to_another_study_and_missing_ones(study: Path, tmp_path: Path) -> None:
    file = answered(study, "one", {"full": (5, 5, 5), "merged": (5, 5, 5)})
    key = json.loads((study / KEY).read_text())
    (study / KEY).write_text(json.dumps({**key, "study": "0" * 16}))
    with pytest.raises(ConductorError, match="answers to another study"):
        table(study, [file])
    with pytest.raises(ConductorError, match="there is no file of answers"):
        table(study, [tmp_path / "none.csv"])
    with pytest.raises(ConductorError, match="holds no study"):
        table(tmp_path, [file])
    (study / KEY).write_text("{")
    with pytest.raises(ConductorError, match="is damaged"):
        table(study, [file])
