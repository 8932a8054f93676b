"""The paper's user study: a static page that shows images blind, and the table from the answers that people send.

The folder for the page holds nothing that tells methods apart: the study and its images have names drawn at random,
and which is whose stands in a file outside of it.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.report.study_key import KEY, KeyImage, StudyKey, kept_key
from concept_conductor.evaluation.report.table import Estimate
from concept_conductor.io.folders import atomic_folder
from concept_conductor.io.html import embedded_json, render
from concept_conductor.io.images import load_image, save_png
from concept_conductor.io.ordinary import read_bounded

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "study.html"
PAGE = "study"
FIELDS = ("study", "rater", "image", "question", "answer")
TEXT = "text"
"""The question whether the image matches its text; the concepts' are ``concept-1``, ``concept-2``, ..."""
LOWEST, HIGHEST = 1, 5
MAX_ANSWERS = 2**22
"""Bytes of a file of answers."""
ENOUGH = 6
"""Answers in a file from which a pattern in them is worth a look."""


@dataclass(frozen=True)
class Shown:
    """One image that is shown.

    Attributes:
        method, combination, prompt, seed: which.
        text: the prompt.
        image: its file.
        references: concept -> images of it.
    """

    method: str
    combination: str
    prompt: str
    seed: int
    text: str
    image: Path
    references: Mapping[str, Sequence[Path]]


def choose(images: Sequence[Shown], count: int, seed: int) -> list[Shown]:
    """Choose ``count`` images, or a few less: random scenes, of each every method's, so that all are judged alike.

    Raises:
        ConductorError: there are fewer images than methods asked for.
    """
    methods = dict.fromkeys(image.method for image in images)
    scenes: dict[tuple[str, str, int], dict[str, Shown]] = {}
    for image in images:
        scenes.setdefault((image.combination, image.prompt, image.seed), {})[image.method] = image
    whole = [scene for scene in scenes.values() if len(scene) == len(methods)]
    wanted = count // len(methods) if methods else 0
    if not whole or not wanted:
        raise ConductorError(
            f"a study of {count} images by {len(methods)} methods needs scenes that all methods made, and at least "
            f"one image of each; there are {len(whole)} such scenes"
        )
    chosen = random.Random(seed).sample(whole, min(wanted, len(whole)))
    return [image for scene in chosen for image in scene.values()]


def write_study(folder: Path, title: str, chosen: Sequence[Shown], seed: int) -> Path:
    """Write ``study/`` (to put on any web server, or to open as it is) and ``study-key.json`` beside it.

    The same study written again keeps its names, so that answers to its page stay good.

    Args:
        folder: of the results.
        title: of the page.
        chosen: what is shown; each person sees all of them in an order of their own.
        seed: that chose them.

    Returns:
        The page.
    """
    key = _new_key(folder, chosen, seed)
    shown = dict(zip(key.images, chosen, strict=True))
    page, items = folder / PAGE, []
    references: dict[Path, str] = {}
    with atomic_folder(page) as unfinished:
        for name in sorted(shown):  # random names: neither the order in the page nor a file's date tells anything
            image = shown[name]
            # without the recipe that is in it
            save_png(load_image(image.image), unfinished / "images" / f"{name}.png")
            concepts = []
            for number, files in enumerate(image.references.values(), 1):
                for file in files:
                    if file not in references:
                        references[file] = f"references/{len(references):03d}.png"
                        save_png(load_image(file), unfinished / references[file])
                concepts.append({"key": f"concept-{number}", "references": [references[file] for file in files]})
            items.append({"name": name, "text": image.text, "concepts": concepts})
        data = embedded_json({"study": key.study, "items": items})
        text = render(TEMPLATE.read_text(encoding="utf-8"), title=title, data=data)
        (unfinished / "index.html").write_bytes(text.encode())
        key.write(folder)
    return page / "index.html"


def _new_key(folder: Path, chosen: Sequence[Shown], seed: int) -> StudyKey:
    """Make a key with names that nobody can compute; take the earlier one where that is of the same study."""
    images = [
        KeyImage(
            method=image.method,
            combination=image.combination,
            prompt=image.prompt,
            seed=image.seed,
            concepts=list(image.references),
            file=image.image.name,
        )
        for image in chosen
    ]
    if (folder / KEY).is_file():
        earlier = StudyKey.read(folder)
        if earlier.seed == seed and list(earlier.images.values()) == images:
            return earlier
    return StudyKey(study=_secret(), seed=seed, images={_secret(): image for image in images})


def _secret() -> str:
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Answers:
    """One person's file.

    Attributes:
        file: as it was given.
        rater: who answered.
        marks: (image, question) -> 1 to 5.
    """

    file: Path
    rater: str
    marks: Mapping[tuple[str, str], int]

    @classmethod
    def read(cls, file: Path, key: StudyKey, folder: Path) -> Answers:
        """Read a file as the page saved it, and nothing else: it comes from anybody.

        Raises:
            ConductorError: it is none, of another study, or of several people.
        """
        if not os.path.exists(file):
            raise ConductorError(f"there is no file of answers '{file}'; check the path")
        try:
            text = read_bounded(file, MAX_ANSWERS).decode("utf-8-sig")
            table = csv.reader(io.StringIO(text, newline=""), strict=True)
            header, *rows = list(table) or [[]]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConductorError(f"'{file}' is no CSV file of answers ({error})") from error
        if not rows and sorted(header) != sorted(FIELDS):
            raise ConductorError(f"'{file}' holds no answers; expected the columns {', '.join(FIELDS)}")
        rater, marks = "", {}
        for number, cells in enumerate(rows, 2):
            place = f"'{file}', line {number}"
            if sorted(header) != sorted(FIELDS) or len(cells) != len(FIELDS):
                raise ConductorError(
                    f"{place}: expected the columns {', '.join(FIELDS)}, as the study's page saves them"
                )
            row = dict(zip(header, cells))
            if row["study"] != key.study:
                raise ConductorError(f"{place}: {_of_another_study(row['study'], folder)}")
            question = _question(row, key)
            if question is None:
                raise ConductorError(f"{place}: the study has no question '{row['question']}' on '{row['image']}'")
            if row["answer"] not in map(str, range(LOWEST, HIGHEST + 1)):
                raise ConductorError(f"{place}: expected an answer from {LOWEST} to {HIGHEST}, not '{row['answer']}'")
            if not row["rater"].strip():
                raise ConductorError(f"{place}: nobody is named as 'rater'; the page asks for a name, write one")
            rater = rater or row["rater"]
            if row["rater"] != rater:
                raise ConductorError(
                    f"{place}: these are answers of '{row['rater']}' in a file of '{rater}'; the page saves one "
                    "person's, so look where it came from, and give a file for each"
                )
            if question in marks:
                raise ConductorError(f"{place}: '{row['question']}' on '{row['image']}' is answered a second time")
            marks[question] = int(row["answer"])
        return cls(file, rater, marks)


def _question(row: Mapping[str, str], key: StudyKey) -> tuple[str, str] | None:
    """Return what a row answers; None where the study does not ask it."""
    image, question = key.images.get(row["image"]), row["question"]
    if image is None:
        return None
    keys = [f"concept-{number}" for number in range(1, len(image.concepts) + 1)]
    if question not in (TEXT, *keys) and question in image.concepts:  # pages of older versions wrote names
        question = keys[image.concepts.index(question)]
    return (row["image"], question) if question in (TEXT, *keys) else None


def _of_another_study(study: str, folder: Path) -> str:
    sentence = "these are answers to another study than the one in this folder"
    kept = kept_key(study)
    if os.path.isfile(folder / kept):
        sentence += f", an earlier one whose key is kept in {kept}; put it in the place of {KEY} to read them"
    return sentence


def oddities(files: Sequence[Answers], key: StudyKey) -> list[str]:
    """Return what a researcher should look at before believing some files, a sentence for each."""
    asked = sum(1 + len(image.concepts) for image in key.images.values())
    found, by_rater = [], dict[str, Answers]()
    for number, one in enumerate(files):
        if len(one.marks) >= ENOUGH:
            if len(set(one.marks.values())) == 1:
                found.append(f"'{one.file}' gives the same answer {next(iter(one.marks.values()))} everywhere")
            for other in files[:number]:
                if other.rater != one.rater and other.marks == one.marks:
                    found.append(f"'{one.file}' of '{one.rater}' answers just as '{other.file}' of '{other.rater}'")
        if 2 * len(one.marks) < asked:
            found.append(f"'{one.file}' answers {len(one.marks)} of {asked} questions")
        earlier = by_rater.setdefault(one.rater, one)
        if any(one.marks.get(question, mark) != mark for question, mark in earlier.marks.items()):
            found.append(f"'{one.file}' changes answers of '{one.rater}' in '{earlier.file}'; the last ones count")
    return found


def table(folder: Path, answers: Iterable[Path]) -> list[dict[str, Any]]:
    """Return for each method its mean answers on text and on image, with 95% bootstrap intervals over images.

    Args:
        folder: of the results, with the study's key.
        answers: CSV files as the page gave them; odd ones are named in a warning.

    Returns:
        Rows with method, images, people, and text, text_low, text_high, image, image_low, image_high.

    Raises:
        ConductorError: no study here, or a file that is none of its answers.
    """
    key = StudyKey.read(folder)
    files = [Answers.read(file, key, folder) for file in answers]
    for oddity in oddities(files, key):
        logger.warning("%s; look where it came from", oddity)
    given: dict[tuple[str, str], dict[str, int]] = {}
    for one in files:
        for (image, question), mark in one.marks.items():
            # who answers twice is heard once: the last answer counts
            given.setdefault((image, one.rater), {})[question] = mark
    if not given:
        raise ConductorError("the files of answers hold no answer; expected those that the study's page saved")
    rows = []
    for method in dict.fromkeys(image.method for image in key.images.values()):
        own = {pair: marks for pair, marks in given.items() if key.images[pair[0]].method == method}
        row: dict[str, Any] = {
            "method": method,
            "images": len({image for image, _ in own}),
            "people": len({rater for _, rater in own}),
        }
        for what in ("text", "image"):
            marks: dict[str, list[float]] = {}
            for (image, _), answer in own.items():
                asked = [mark for question, mark in answer.items() if (question == TEXT) == (what == "text")]
                if asked:
                    marks.setdefault(image, []).append(sum(asked) / len(asked))
            estimate = Estimate.of([sum(values) / len(values) for values in marks.values()])
            row |= {what: estimate.mean, f"{what}_low": estimate.low, f"{what}_high": estimate.high}
        rows.append(row)
    return rows
