"""Whole checkpoints: single files in Stability's own layout, and folders that others can load."""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from concept_conductor import Alignment, ConceptConductorPipeline, ConductorError
from tests.conftest import TINY, TINY_XL
from tests.stability import checkpoint

FAMILIES = ("sd15", "sd21", "sdxl")


@pytest.fixture(scope="module")
def models(
    tiny_pipe: ConceptConductorPipeline, tiny_xl: ConceptConductorPipeline
) -> dict[str, ConceptConductorPipeline]:
    """A tiny random model of each family, in the shapes by which diffusers tells checkpoints apart.

    It takes for SDXL what has a tenth layer in an OpenCLIP encoder, and that encoder by its width; for SD2.1 what reads
    texts of width 1024.
    """
    torch.manual_seed(0)
    ends = {name: getattr(tiny_pipe.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}

    def text(width: int, layers: int, **more: Any) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=514, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=4, **ends, **more,
        )  # fmt: skip

    def unet(pipe: ConceptConductorPipeline, **changes: Any) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_config({**pipe.unet.config, **changes}).eval()

    second = CLIPTextModelWithProjection(text(24, 10, projection_dim=16)).eval()
    wide = CLIPTextModel(text(1024, 1)).eval()
    velocity = type(tiny_pipe.scheduler).from_config(tiny_pipe.scheduler.config, prediction_type="v_prediction")
    own = {
        "sd15": {},
        "sd21": {
            "unet": unet(tiny_pipe, cross_attention_dim=1024, use_linear_projection=True),
            "text_encoder": wide,
            "scheduler": velocity,
        },
        "sdxl": {"unet": unet(tiny_xl, cross_attention_dim=16 + 24), "text_encoder_2": second},
    }
    made = {}
    for family, parts in own.items():
        pipe = ConceptConductorPipeline(**{**(tiny_xl if family == "sdxl" else tiny_pipe).components, **parts})
        pipe.set_progress_bar_config(disable=True)
        made[family] = pipe
    return made


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def configuration(pipe: ConceptConductorPipeline, folder: Path) -> Path:
    """A diffusers folder of the model without any of its weights."""
    pipe.save_pretrained(folder)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


def weights(pipe: DiffusionPipeline) -> dict[str, torch.Tensor]:
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": value for name, part in networks.items() for key, value in part.state_dict().items()}


@pytest.mark.parametrize("container", ["safetensors", "ckpt"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_folder(
    models: dict[str, ConceptConductorPipeline], family: str, container: str, tmp_path: Path, offline: None
) -> None:
    """Every weight in its place, and the same latents, with the configuration from a folder on this machine."""
    pipe = models[family]
    state, file = checkpoint(pipe), tmp_path / f"model.{container}"
    assert len(state) > 500
    if container == "safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": state, "global_step": 1}, file)
    folder = configuration(pipe, tmp_path / "configuration")
    loaded = ConceptConductorPipeline.from_single_file(file, config=str(folder))
    loaded.set_progress_bar_config(disable=True)
    assert loaded.family.family == family
    assert loaded.scheduler.config.prediction_type == pipe.scheduler.config.prediction_type
    ours, theirs = weights(loaded), weights(pipe)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    run = {"prompt": "a dog", "latents": latents, "num_inference_steps": 2, "output_type": "latent"}
    assert torch.equal(loaded(**run).images, pipe(**run).images)


def test_a_saved_model_loads_here_and_in_diffusers(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    kinds = {"sd15": StableDiffusionPipeline, "sd21": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
    for family, pipe in models.items():
        folder = tmp_path / family
        pipe.save_pretrained(folder)
        assert json.loads((folder / "model_index.json").read_text())["_class_name"] == kinds[family].__name__
        assert not (folder / "conductor.json").exists()
        again = ConceptConductorPipeline.from_pretrained(folder)
        assert again.family is pipe.family and again.defaults == pipe.defaults
        ours, theirs = weights(again), weights(kinds[family].from_pretrained(folder))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_models_own_settings_are_saved_with_it(tiny_pipe: ConceptConductorPipeline, tmp_path: Path) -> None:
    own = tiny_pipe.defaults.model_copy(update={"alignment": Alignment(step_size=3.0, concept_weight=1.0, end=0.5)})
    ConceptConductorPipeline(**tiny_pipe.components, defaults=own).save_pretrained(tmp_path)
    assert ConceptConductorPipeline.from_pretrained(tmp_path).defaults == own


def truncated(folder: Path, name: str) -> Path:
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return folder


class Runs:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "code", "lora", "header"])
def test_bad_checkpoints_are_one_sentence(
    kind: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    file = tmp_path / ("model.ckpt" if kind == "code" else "model.safetensors")
    if kind == "truncated":
        save_file(checkpoint(models["sd15"]), file)
        truncated(tmp_path, file.name)
    elif kind == "lora":
        save_file({"lora_unet_conv_in.lora_down.weight": torch.ones(2, 4, 3, 3)}, file)
    elif kind == "code":
        torch.save({"state_dict": Runs(tmp_path / "mark")}, file)
    else:
        content = {"empty": b"", "text": b"<html>", "header": struct.pack("<Q", 100 << 30) + b'{"a":1}' + b" " * 99}
        file.write_bytes(content[kind])
    folder = configuration(models["sd15"], tmp_path / "configuration")
    with pytest.raises(ConductorError) as caught:
        ConceptConductorPipeline.from_single_file(file, config=str(folder))
    message = str(caught.value)
    assert str(file) in message and "\n" not in message
    assert ("is no checkpoint" if kind == "lora" else "could not be read") in message
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(("of", "config"), [("sd15", "sdxl"), ("sdxl", "sd15"), ("sd21", "sd15"), ("sd15", "a/b/c")])
def test_a_configuration_of_another_family(
    of: str, config: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    file = tmp_path / "model.safetensors"
    save_file(checkpoint(models[of]), file)
    folder = configuration(models[config], tmp_path / "configuration") if config in models else tmp_path / config
    with pytest.raises(ConductorError, match="in config=, where it is given, a diffusers folder of the same family"):
        ConceptConductorPipeline.from_single_file(file, config=str(folder))


@pytest.mark.parametrize("part", ["model.diffusion_model.input_blocks.1.0.in_layers.2.weight", "first_stage_model."])
def test_a_checkpoint_that_lacks_weights(
    part: str, models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    file = tmp_path / "model.safetensors"
    save_file({key: value for key, value in checkpoint(models["sd15"]).items() if not key.startswith(part)}, file)
    folder = configuration(models["sd15"], tmp_path / "configuration")
    with pytest.raises(ConductorError, match="expected all weights of a Stable Diffusion"):
        ConceptConductorPipeline.from_single_file(file, config=str(folder))


@pytest.mark.parametrize("damage", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "model_index.json"])
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_damaged_folders_are_one_sentence(damage: str, how: str, tmp_path: Path, offline: None) -> None:
    folder = shutil.copytree(TINY, tmp_path / "model")
    if how == "truncated":
        truncated(folder, damage)
    else:
        (folder / damage).unlink()
    with pytest.raises(ConductorError) as caught:
        ConceptConductorPipeline.from_pretrained(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message


def test_without_the_hub_a_single_file_says_what_it_needs(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    save_file(checkpoint(models["sd15"]), tmp_path / "model.safetensors")
    with pytest.raises(ConductorError, match="give config=, a diffusers folder of the same family"):
        ConceptConductorPipeline.from_single_file(tmp_path / "model.safetensors")


def test_a_tiny_sdxl_is_what_diffusers_takes_for_one() -> None:
    """The parity model itself cannot be told: both of its encoders are of one width, and have two layers."""
    pipe = ConceptConductorPipeline.from_pretrained(TINY_XL)
    assert pipe.text_encoder.config.hidden_size == pipe.text_encoder_2.config.hidden_size
