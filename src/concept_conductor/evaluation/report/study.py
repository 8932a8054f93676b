"""The paper's user study: a static page that shows images blind, and the table from the answers that people send.

The folder for the page holds nothing that tells methods apart: images have names drawn at random, and which is
whose stands in a file outside of it.
"""

from __future__ import annotations

import csv
import io
import json
import random
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.report.table import Estimate
from concept_conductor.io.files import atomic_write
from concept_conductor.io.images import load_image, save_png

TEMPLATE = Path(__file__).parent / "study.html"
PAGE = "study"
KEY = "study-key.json"
FIELDS = ("study", "rater", "image", "question", "answer")
TEXT = "text"
"""The question whether the image matches its text; the others are named by the concepts."""
LOWEST, HIGHEST = 1, 5
MAX_ANSWERS = 2**22
"""Bytes of a file of answers."""
SALT_BITS = 64


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
    """``count`` images, or a few less: random scenes, of each every method's image, so that all are judged alike.

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

    Args:
        folder: of the results.
        title: of the page.
        chosen: what is shown; each person sees all of them in an order of their own.
        seed: of the random names.

    Returns:
        The page.
    """
    draw = random.Random(f"{seed} {title} names")
    study = f"{draw.getrandbits(SALT_BITS):016x}"
    page, key, items = folder / PAGE, {}, []
    if page.exists():
        shutil.rmtree(page)  # a former study's images would stay among the new ones
    references: dict[Path, str] = {}
    for image in chosen:
        name = f"{draw.getrandbits(SALT_BITS):016x}"
        save_png(load_image(image.image), page / "images" / f"{name}.png")  # without the recipe that is in it
        key[name] = {
            "method": image.method,
            "combination": image.combination,
            "prompt": image.prompt,
            "seed": image.seed,
            "concepts": list(image.references),
        }
        concepts = []
        for concept, files in image.references.items():
            for file in files:
                if file not in references:
                    references[file] = f"references/{len(references):03d}.png"
                    save_png(load_image(file), page / references[file])
            concepts.append({"name": concept, "references": [references[file] for file in files]})
        items.append({"name": name, "text": image.text, "concepts": concepts})
    draw.shuffle(items)  # nor does their order in the page tell anything
    data = json.dumps({"study": study, "items": items}, ensure_ascii=False).replace("<", "\\u003c")
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), data=data)
    with atomic_write(page / "index.html") as stream:
        stream.write(text.encode())
    with atomic_write(folder / KEY) as stream:
        stream.write(json.dumps({"study": study, "images": key}, indent=1, ensure_ascii=False).encode())
    return page / "index.html"


def table(folder: Path, answers: Iterable[Path]) -> list[dict[str, Any]]:
    """For each method its mean answers on text and on image, with 95% bootstrap intervals over images.

    Args:
        folder: of the results, with the study's key.
        answers: CSV files as the page gave them.

    Returns:
        Rows with method, images, people, and text, text_low, text_high, image, image_low, image_high.

    Raises:
        ConductorError: no study here, or a file that is none of its answers.
    """
    key = _key(folder)
    given: dict[tuple[str, str], dict[str, int]] = {}
    for file in answers:
        for entry in _answers(file, key):
            # who answers twice is heard once: the last answer counts
            given.setdefault((entry["image"], entry["rater"]), {})[entry["question"]] = int(entry["answer"])
    if not given:
        raise ConductorError("the files of answers hold no answer; expected those that the study's page saved")
    rows = []
    for method in dict.fromkeys(image["method"] for image in key["images"].values()):
        own = {pair: marks for pair, marks in given.items() if key["images"][pair[0]]["method"] == method}
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


def _key(folder: Path) -> dict[str, Any]:
    file = folder / KEY
    if not file.is_file():
        raise ConductorError(f"'{folder}' holds no study ({KEY} is missing); make one with conductor study {folder}")
    try:
        key: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if {"study", "images"} <= set(key):
            return key
    except (ValueError, TypeError):
        pass
    raise ConductorError(f"'{file}' is damaged; the study's answers cannot be read without it")


def _answers(file: Path, key: Mapping[str, Any]) -> list[dict[str, str]]:
    """The rows of one file, each checked."""
    if not file.is_file():
        raise ConductorError(f"there is no file of answers '{file}'; check the path")
    if file.stat().st_size > MAX_ANSWERS:
        raise ConductorError(f"'{file}' has more than {MAX_ANSWERS:,} bytes; expected one person's answers")
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConductorError(f"'{file}' is no CSV file of answers ({error})") from error
    for number, row in enumerate(rows, 2):
        place = f"'{file}', line {number}"
        if set(row) != set(FIELDS) or None in row.values():
            raise ConductorError(f"{place}: expected the columns {', '.join(FIELDS)}, as the study's page saves them")
        if row["study"] != key["study"]:
            raise ConductorError(f"{place}: these are answers to another study than the one in this folder")
        image = key["images"].get(row["image"])
        if image is None or row["question"] not in (TEXT, *image["concepts"]):
            raise ConductorError(f"{place}: the study has no question '{row['question']}' on '{row['image']}'")
        if row["answer"] not in map(str, range(LOWEST, HIGHEST + 1)):
            raise ConductorError(f"{place}: expected an answer from {LOWEST} to {HIGHEST}, not '{row['answer']}'")
    return rows
