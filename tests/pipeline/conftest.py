"""Model folders to damage, and a tiny model of each family in the shapes by which checkpoints are told apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from concept_conductor import ConceptConductorPipeline
from tests.conftest import TINY, TINY_XL


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A copy of the tiny SD1.5."""
    return copied(TINY, tmp_path / "model")


@pytest.fixture
def xl(tmp_path: Path) -> Path:
    """A copy of the tiny SDXL."""
    return copied(TINY_XL, tmp_path / "xl")


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.pth", "*.png"))
    return target


def edit(file: Path, change: Callable[[dict[str, Any]], Any] | None = None, **fields: Any) -> None:
    """Change a JSON file in place."""
    data = json.loads(file.read_text())
    if change is not None:
        change(data)
    file.write_text(json.dumps({**data, **fields}))


@pytest.fixture(scope="session")
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


def truncated(folder: Path, name: str) -> Path:
    file = folder / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return folder
