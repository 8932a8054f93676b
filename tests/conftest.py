"""Shared fixtures: the tiny random model of the parity cases, its concepts and images."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from concept_conductor import Concept, ConceptConductorPipeline, ConceptPrompt, Inversion, Layout

TINY = Path(__file__).parent / "parity" / "sd15"
TINY_XL = Path(__file__).parent / "parity" / "sdxl"
VARIANTS = {
    "chow_dog": "A <chow_dog_1> <chow_dog_2> and a <chow_dog_1> <chow_dog_2> on the beach.",
    "siberian_cat": "A <siberian_cat_1> <siberian_cat_2> and a <siberian_cat_1> <siberian_cat_2> on the beach.",
    "red_robot": "A <red_robot_1> <red_robot_2> and a <red_robot_1> <red_robot_2> on the beach.",
}

LEAST_COVERED = 8
"""Files that `make test` names under its total; `make coverage` lists them all."""

torch.set_num_threads(1)  # the models are tiny: threads only get into each other's way


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Coverage in short, where it is measured without a report of its own (`--cov --cov-report=`)."""
    if not config.getoption("cov_source", None) or any(config.getoption("cov_report")):
        return
    import coverage

    measured, listing = coverage.Coverage(), io.StringIO()
    measured.load()
    total = measured.report(show_missing=False, skip_covered=True, sort="cover", file=listing)
    terminalreporter.section("coverage")
    terminalreporter.line(
        f"{total:.1f}% of all statements; least of these files (make coverage lists all, with lines):"
    )
    for row in listing.getvalue().splitlines()[2 : 2 + LEAST_COVERED]:
        terminalreporter.line(row.removeprefix("src/concept_conductor/"))


@pytest.fixture(scope="session")
def tiny_pipe() -> ConceptConductorPipeline:
    """A random SD1.5 of the published layout, 128 px."""
    pipe = ConceptConductorPipeline.from_pretrained(TINY, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def tiny_concepts() -> dict[str, ConceptPrompt]:
    """The three concepts, each with its variant of the base prompt."""
    return {name: ConceptPrompt(Concept.load(TINY / f"{name}.pth"), text) for name, text in VARIANTS.items()}


@pytest.fixture(scope="session")
def tiny_xl() -> ConceptConductorPipeline:
    """A random SDXL of the published layout, 128 px: 70 cross-attention layers, two text encoders."""
    pipe = ConceptConductorPipeline.from_pretrained(TINY_XL, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_image(name: str, folder: Path = TINY) -> Image.Image:
    """One of the parity cases' images."""
    with Image.open(folder / f"{name}.png") as image:
        return image.copy()


@pytest.fixture(scope="session")
def tiny_call(tiny_concepts: dict[str, ConceptPrompt], tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """Arguments of a short two-concept run whose inversion is cached after the first."""
    return {
        "prompt": "A dog and a cat on the beach.",
        "concepts": [tiny_concepts["chow_dog"], tiny_concepts["siberian_cat"]],
        "layout": Layout(
            tiny_image("ref"), "A dog and a cat in the street.", [tiny_image("mask1"), tiny_image("mask2")]
        ),
        "num_inference_steps": 10,
        "inversion": Inversion(steps=50, cache=tmp_path_factory.mktemp("inversions")),
        "output_type": "latent",
    }
