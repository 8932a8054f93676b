"""The user study: blind, balanced, and read back from people's files with suspicion."""

from __future__ import annotations

import csv
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.report.study import FIELDS, KEY, Shown, choose, table, write_study

METHODS = ("full", "merged")


def scenes(folder: Path, concepts: tuple[str, ...] = ("a", "b"), methods: tuple[str, ...] = METHODS) -> list[Shown]:
    """Six scenes by two methods, in files that tell whose they are."""
    info = PngInfo()
    info.add_text("concept-conductor", "made by merged")
    reference = folder / "toy.png"
    Image.new("RGB", (8, 8)).save(reference)
    made = []
    for seed in range(6):
        for method in methods:
            file = folder / f"{method}-{seed}.png"
            Image.new("RGB", (8, 8), (seed, 0, len(method))).save(file, pnginfo=info)
            references = {concept: [reference] for concept in concepts}
            made.append(Shown(method, "a + b", "1", seed, "Two toys.", file, references))
    return made


@pytest.fixture
def images(tmp_path: Path) -> list[Shown]:
    return scenes(tmp_path)


@pytest.fixture
def study(images: list[Shown], tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    write_study(folder, "Judging", choose(images, 8, seed=0), seed=0)
    return folder


def key_of(study: Path) -> dict:
    return json.loads((study / KEY).read_text())


def data_of(study: Path) -> dict:
    page = (study / "study" / "index.html").read_text()
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


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
    data, key = data_of(study), key_of(study)["images"]
    # in the order of their names, which are random
    assert [item["name"] for item in data["items"]] == sorted(key)
    for name in METHODS:
        assert name not in json.dumps(data)
    for name in key:
        with Image.open(study / "study" / "images" / f"{name}.png") as image:
            assert "concept-conductor" not in image.info
    assert not (study / "study" / KEY).exists()


def test_nobody_can_compute_a_studys_names(images: list[Shown], study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_study(other, "Judging", choose(images, 8, seed=0), seed=0)  # the same in all that people can see
    one, two = key_of(study), key_of(other)
    assert one["study"] != two["study"]
    assert not set(one["images"]) & set(two["images"])
    names = [one["study"], *one["images"]]
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names) and len(set(names)) == 9


def test_the_same_study_written_again_keeps_its_names_and_another_keeps_the_earlier_key(
    images: list[Shown], study: Path
) -> None:
    first = key_of(study)
    file = answered(study, "one", {"full": (5, 5, 5), "merged": (5, 5, 4)})
    write_study(study, "Judging", choose(images, 8, seed=0), seed=0)
    assert key_of(study) == first
    write_study(study, "Judging", choose(images, 8, seed=1), seed=1)
    assert key_of(study)["study"] != first["study"]
    assert sorted(path.name for path in (study / "study" / "images").iterdir()) == sorted(
        f"{name}.png" for name in key_of(study)["images"]
    )
    kept = f"study-key-{first['study']}.json"
    with pytest.raises(
        ConductorError, match=f"another study than the one .* an earlier one whose key is kept in {kept}"
    ):
        table(study, [file])
    (study / kept).replace(study / KEY)
    assert len(table(study, [file])) == 2


def answered(study: Path, rater: str, marks: dict[str, tuple[int, int, int]], name: str = "") -> Path:
    """A person's file: for each method text, a and b."""
    key = key_of(study)
    file = study / f"{name or rater}.csv"
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(FIELDS)
        for image, entry in key["images"].items():
            for question, mark in zip(("text", "concept-1", "concept-2"), marks[entry["method"]]):
                writer.writerow([key["study"], rater, image, question, mark])
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


@pytest.mark.parametrize("name", ["text", "constructor", "__proto__", "=1+1", "a\x1b]0;owned\x07</script>"])
def test_a_concepts_name_is_no_questions(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "results"
    write_study(folder, "Judging", scenes(tmp_path, (name, "b")), seed=0)
    assert (folder / "study" / "index.html").read_text().count("</script>") == 2
    (item, *_) = data_of(folder)["items"]
    assert [concept["key"] for concept in item["concepts"]] == ["concept-1", "concept-2"]
    file = answered(folder, "one", {"full": (1, 5, 5), "merged": (2, 4, 4)})
    rows = {row["method"]: row for row in table(folder, [file])}
    assert (rows["full"]["text"], rows["full"]["image"]) == (1.0, 5.0)
    assert (rows["merged"]["text"], rows["merged"]["image"]) == (2.0, 4.0)


def test_pages_of_older_versions_wrote_concepts_names(study: Path) -> None:
    file = answered(study, "one", {"full": (1, 5, 3), "merged": (2, 4, 4)})
    new = table(study, [file])
    file.write_text(file.read_text().replace("concept-1", "a").replace("concept-2", "b"))
    assert table(study, [file]) == new


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",5\r\n", ",6\r\n", "line 2: expected an answer from 1 to 5, not '6'"),
        (",text,", ",mood,", "line 2: the study has no question 'mood' on"),
        (",text,", ",constructor,", "line 2: the study has no question 'constructor' on"),
        ("study,rater", "studie,rater", "line 2: expected the columns study, rater, image, question, answer"),
        ("\r\n", ",more\r\n", "line 3: expected the columns|line 2: expected the columns"),
        (",one,", ",two,", "line 3: these are answers of 'one' in a file of 'two'; the page saves one person's"),
        (",one,", ",  ,", "line 2: nobody is named as 'rater'"),
        ("concept-1", "text", "line 3: 'text' on '[0-9a-f]*' is answered a second time"),
        (",one,", ',"one,', "is no CSV file of answers"),
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
    key = key_of(study)
    (study / KEY).write_text(json.dumps({**key, "study": "0" * 16}))
    with pytest.raises(ConductorError, match="answers to another study"):
        table(study, [file])
    with pytest.raises(ConductorError, match="there is no file of answers"):
        table(study, [tmp_path / "none.csv"])
    with pytest.raises(ConductorError, match="holds no study"):
        table(tmp_path, [file])
    (study / "empty.csv").write_text(",".join(FIELDS))
    (study / KEY).write_text(json.dumps(key))
    with pytest.raises(ConductorError, match="hold no answer"):
        table(study, [study / "empty.csv"])
    for damaged in ("{", "[]", json.dumps({"study": 1}), json.dumps({"study": "a", "images": {"b": {}}})):
        (study / KEY).write_text(damaged)
        with pytest.raises(ConductorError, match="is damaged; answers cannot be read without it"):
            table(study, [file])


def test_odd_files_are_named_to_the_researcher(study: Path, caplog: pytest.LogCaptureFixture) -> None:
    fine = answered(study, "ann", {"full": (5, 4, 5), "merged": (3, 1, 2)})
    table(study, [fine, answered(study, "bea", {"full": (5, 4, 4), "merged": (3, 1, 2)})])
    assert not caplog.records
    same = answered(study, "bob", {"full": (5, 4, 5), "merged": (3, 1, 2)})
    lazy = answered(study, "joe", {"full": (5, 5, 5), "merged": (5, 5, 5)})
    changed = answered(study, "ann", {"full": (1, 1, 1), "merged": (5, 4, 5)}, name="ann-2")
    short = answered(study, "kim", {"full": (5, 4, 5), "merged": (3, 1, 2)}, name="kim")
    short.write_text("\n".join(short.read_text().splitlines()[:4]))
    with caplog.at_level(logging.WARNING):
        table(study, [fine, same, lazy, changed, short])
    said = [record.getMessage() for record in caplog.records]
    assert [re.sub(r"'[^']*/", "'", sentence) for sentence in said] == [
        "'bob.csv' of 'bob' answers just as 'ann.csv' of 'ann'; look where it came from",
        "'joe.csv' gives the same answer 5 everywhere; look where it came from",
        "'ann-2.csv' changes answers of 'ann' in 'ann.csv'; the last ones count; look where it came from",
        "'kim.csv' answers 3 of 24 questions; look where it came from",
    ]


CELL = st.one_of(
    st.text(max_size=12), st.sampled_from(["text", "concept-1", "5", "0", "=1+1", "", "\x00", '"', "٣", "1e0"])
)


@pytest.fixture(scope="module")
def one_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, "Judging", scenes(folder), seed=0)
    return folder


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_file_of_answers_ends_in_anything_but_a_table_or_a_sentence(one_study: Path, data: st.DataObject) -> None:
    key, file = key_of(one_study), one_study / "fuzzed.csv"
    good = [key["study"], "ann", next(iter(key["images"])), "text", "3"]
    if data.draw(st.booleans(), label="bytes"):
        file.write_bytes(data.draw(st.binary(max_size=300)))
    else:
        header = data.draw(st.permutations(FIELDS) | st.lists(CELL, max_size=6))
        row = st.tuples(*(st.just(value) | CELL for value in good)) | st.lists(CELL, max_size=7)
        with open(file, "w", newline="", encoding="utf-8", errors="surrogatepass") as stream:
            writer = csv.writer(stream, escapechar="\\")
            writer.writerows([header, *data.draw(st.lists(row, max_size=5))])
    try:
        rows = table(one_study, [file])
    except ConductorError as error:
        assert (len(str(error).splitlines()) >= 1 and "fuzzed.csv" in str(error)) or "hold no answer" in str(error)
    else:
        assert [row["method"] for row in rows] == list(METHODS)
        assert sum(row["people"] for row in rows) <= 2  # one person at most, with each method
        assert all(1 <= row[what] <= 5 for row in rows for what in ("text", "image") if row[what] == row[what])
