"""`conductor mini train`: from nothing to a model folder, on a micro configuration."""

import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from concept_conductor import ConceptConductorPipeline
from concept_conductor.cli.mini import app
from concept_conductor.mini import presets
from concept_conductor.mini.judge import Judge
from concept_conductor.mini.trainer import Settings

BRIEF = Settings(steps=2, warmup=1, checkpoint_minutes=0)
MICRO = dataclasses.replace(
    presets.CPU,
    classes=("dog", "cat", "mug"),
    size=32,
    vae_channels=(8, 8, 8),
    unet_channels=(16, 16, 16, 16),
    unet_heads=(1, 1, 1, 1),
    text_layers=1,
    text_width=16,
    bank=8,
    vae_batch=1,
    unet_batch=2,
    judge_batch=4,
    processes=1,
    vae=BRIEF,
    unet=BRIEF,
    judge=BRIEF,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """State and output of `conductor mini train all`."""
    folder = tmp_path_factory.mktemp("mini")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "cpu", MICRO)
        arguments = ["train", "all", "--state", str(folder / "state"), "--out", str(folder / "out")]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_every_part_reports(trained):
    reported = re.findall(r"(\w+) step (\d), ", trained[1])
    assert reported == [(part, step) for part in ("vae", "unet", "judge") for step in "12"]


def test_the_model_folder_loads(trained):
    folder = trained[0] / "out"
    pipe = ConceptConductorPipeline.from_pretrained(folder)
    assert pipe.defaults.layout_layer == MICRO.conductor["layout_layer"]
    assert json.loads((folder / "conductor.json").read_text()) == MICRO.conductor
    assert pipe.backbone.text_layers == 16
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a dog on the beach", num_inference_steps=2).images[0]
    assert image.size == (32, 32)


def test_weights_are_in_half_precision(trained):
    for file in (trained[0] / "out" / "unet").glob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float16}


def test_all_parts_load_in_one_precision(trained):
    pipe = ConceptConductorPipeline.from_pretrained(trained[0] / "out")
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32


def test_the_judge_loads(trained):
    judge = Judge.load(trained[0] / "out" / "judge.safetensors")
    assert judge.size == 32
    assert {name.split("/")[0] for name in judge.designs} == set(MICRO.classes)
