"""README, docs/ and the other pages say what the code does: fields, options, samples and links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from concept_conductor.cli import COMMANDS, load_command
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.metrics.embedders import CLIP, DINOV2
from concept_conductor.evaluation.metrics.image_reward import IMAGE_REWARD, TOKENIZER
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import Item
from concept_conductor.evaluation.metrics.registry import METRICS
from concept_conductor.evaluation.metrics.scoring import score_images
from concept_conductor.grounding.grounded_sam import GROUNDING_DINO, SAM
from concept_conductor.io.documents import read_yaml
from concept_conductor.recipes.schema.collage import CollageEntry
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.training.config import TrainingConfig

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
METRICS_PAGE = ROOT / "docs" / "metrics.md"
PARTS = {
    "prompt": "a dog and a cat",
    "concepts": [{"file": "dog.pth", "replaces": "dog"}, {"file": "cat.pth", "replaces": "cat"}],
    "layout": {"image": "street.png", "prompt": "a dog and a cat", "points": [[1, 1], [9, 9]]},
}
"""What makes a recipe of a sample that shows a part of one."""

named = pytest.mark.parametrize("page", [README, *OTHERS, *PAGES], ids=lambda page: page.name)


def samples(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if not link.startswith("http")]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The command lines of a page, with lines that go on joined."""
    for line in re.findall(
        r"^(?:\$ |    )(?:\w+=\w+ )?conductor (.+)", page.read_text().replace("\\\n", " "), re.MULTILINE
    ):
        yield shlex.split(line, comments=True)


@named
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {(README.parent / link.partition("#")[0]).resolve() for link in links(README)}
    assert {*OTHERS, *PAGES} <= linked


@named
def test_files_of_the_code_that_are_named_are_there(page: Path) -> None:
    names = set(re.findall(r"`([\w/]+\.py)`", page.read_text()))
    if page.stem in ("how-it-works", "CONTRIBUTING"):
        names |= set(re.findall(r"`([\w/]+/)`", page.read_text()))
    for name in names:
        if "NAME" in name:  # a new file
            name = name.rpartition("/")[0]
        assert (ROOT / name).exists() or list((ROOT / "src").rglob(name)), name


@named
def test_samples_are_read(page: Path) -> None:
    for text in samples(page, "yaml"):
        document = read_yaml(text, page.name)
        given: dict[str, Any] = document.data
        if "combinations" in given:
            Benchmark.from_document(document, page.parent)
        elif "class_word" in given:
            document.validated(TrainingConfig)
        elif "cutouts" in given:
            document.validated(CollageEntry)
        else:
            Recipe.from_document(read_yaml(yaml.safe_dump(completed(given)), page.name), page.parent)
    for text in samples(page, "python"):
        compile(text, page.name, "exec")


def completed(given: dict[str, Any]) -> dict[str, Any]:
    """A recipe with what its sample leaves out."""
    needs = {**PARTS, **given}
    places = needs["placement"]["objects"] if "placement" in given else None
    if places is not None:
        del needs["layout"]
    elif "concepts" in given and "layout" not in given:
        needs["layout"] = {**PARTS["layout"], "points": [[1, 1]] * len(given["concepts"])}
    return needs


@named
def test_commands_have_these_options(page: Path) -> None:
    for words in commands(page):
        assert words[0] in COMMANDS
        command = load_command(words[0])
        if hasattr(command, "commands"):
            command = command.commands[words[1]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


@pytest.mark.parametrize(("page", "settings"), [("recipes.md", Recipe), ("training.md", TrainingConfig)])
def test_every_field_is_in_its_table(page: str, settings: type[Recipe] | type[TrainingConfig]) -> None:
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(settings.model_fields)


def test_every_metric_and_model_is_in_its_table() -> None:
    text = METRICS_PAGE.read_text()
    assert set(re.findall(r"^\| `(\w+)` \| `\w+` \|", text, re.MULTILINE)) == set(METRICS)
    for checkpoint in (GROUNDING_DINO, SAM, CLIP, DINOV2, IMAGE_REWARD, TOKENIZER):
        assert any(checkpoint.name in line and checkpoint.revision in line for line in text.splitlines())


def test_the_example_of_an_own_metric_runs(tmp_path: Path) -> None:
    (example,) = (code for code in samples(METRICS_PAGE, "python") if "register_metric" in code)
    Image.new("RGB", (8, 8), (51, 51, 51)).save(tmp_path / "grey.png")
    try:
        exec(example, {})
        instruments = Instruments.for_model("mini", "cpu")
        (row,) = score_images([Item(tmp_path / "grey.png", "", ())], ["brightness"], instruments, tmp_path / "kept")
        assert row["brightness"] == pytest.approx(0.2)  # 51 of 255
    finally:
        METRICS.pop("brightness", None)
