"""Shared fixtures: the tiny random model of the parity cases, its concepts and images."""

from __future__ import annotations

import io
import os
from pathlib import Path

import hypothesis
import pytest
import torch
from diffusers import UNet2DConditionModel
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

NIGHTLY = 50
"""``HYPOTHESIS_PROFILE=nightly`` tries this many times as many examples of each property, other ones every night."""

hypothesis.settings.register_profile("nightly", deadline=None, derandomize=False, print_blob=True)
if profile := os.environ.get("HYPOTHESIS_PROFILE"):
    hypothesis.settings.load_profile(profile)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Raise the number of examples for the nightly profile: a profile alone leaves what @settings says."""
    if os.environ.get("HYPOTHESIS_PROFILE") != "nightly":
        return
    functions = {item.function for item in items if isinstance(item, pytest.Function)}  # once each, if parametrized
    for test in functions:
        if (own := getattr(test, "_hypothesis_internal_use_settings", None)) is not None:
            more = hypothesis.settings(own, max_examples=own.max_examples * NIGHTLY)
            test._hypothesis_internal_use_settings = more


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


SMALL_LAYER = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"
"""A self-attention layer of :func:`small_unet`, for ``layout_layer`` and ``mask_layer``."""


def small_unet() -> UNet2DConditionModel:
    """A random U-Net that fits the tiny SD1.5 in place of its own, with four cross-attention layers instead of 16."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


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
        "num_inference_steps": 5,  # the first three align, the second and third refine
        "inversion": Inversion(steps=10, cache=tmp_path_factory.mktemp("inversions")),
        "output_type": "latent",
    }
