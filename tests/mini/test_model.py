"""The shipped model: small, complete, kept to its preset, and able to draw what it is asked for."""

import json

import pytest
import torch

from concept_conductor import ConceptConductorPipeline
from concept_conductor.evaluation.mini.report import text_to_image
from concept_conductor.mini import MODEL_FOLDER
from concept_conductor.mini.judge import Judge
from concept_conductor.mini.presets import CPU


@pytest.fixture(scope="module")
def pipe() -> ConceptConductorPipeline:
    return ConceptConductorPipeline.from_pretrained("mini")


def test_small_enough_to_ship():
    files = [file for file in MODEL_FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 48e6
    assert max(file.stat().st_size for file in files) <= 15 * 2**20


def test_settings_are_the_presets(pipe):
    assert json.loads((MODEL_FOLDER / "conductor.json").read_text()) == CPU.conductor
    names = dict(pipe.unet.named_modules())
    assert pipe.defaults.layout_layer in names
    assert pipe.defaults.mask_layer in names
    assert pipe.unet.config.block_out_channels == list(CPU.unet_channels)
    assert pipe.unet.config.sample_size * 4 == CPU.size


def test_no_path_of_the_machine_it_was_made_on():
    for file in MODEL_FOLDER.rglob("*.json"):
        assert "_name_or_path" not in file.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "classes"),
    [("a robot on the grass", ["robot"]), ("a backpack and a car on the beach", ["backpack", "car"])],
)
def test_draws_what_the_prompt_says(pipe, prompt, classes):
    torch.set_num_threads(1)
    image = text_to_image(pipe, prompt, [0])[0]
    assert [finding.class_name for finding in Judge.load().find(image)] == classes
