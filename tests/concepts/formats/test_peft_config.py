"""What PEFT's settings say of layers and strengths is taken as PEFT takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from concept_conductor.concepts.concept import Concept
from tests.concepts.models import tiny_text_encoder, tiny_unet
from tests.concepts.peft import adapter, assert_same_differences


def test_numbers_that_are_not_given_are_pefts_own(tmp_path: Path) -> None:
    """Rank 8 and alpha 8."""
    expected = adapter(tiny_unet("sd15"), tmp_path, target_modules=["attn2.to_k"], r=8, lora_alpha=8)
    file = tmp_path / "adapter_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in settings.items() if key not in ("r", "lora_alpha")}))
    assert_same_differences(Concept.load(tmp_path).unet, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 1, "layers_pattern": "layers"},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"rank_pattern": {"layers.0.self_attn.q_proj": 4}, "alpha_pattern": {"^encoder.layers.1.self_attn.q_proj": 9}},
        {"alpha_pattern": {r"layers\.1\.self_attn\.q_proj$": 9}},
        {"target_modules": r".*layers\.\d\.self_attn\.q_proj"},
        {"use_rslora": True},
    ],
)
def test_settings_that_choose_layers_are_honoured(tmp_path: Path, settings: dict[str, Any]) -> None:
    network = tiny_text_encoder()
    expected = adapter(network, tmp_path, **{"target_modules": ["q_proj"], **settings})
    assert len(expected) == (1 if "layers_to_transform" in settings or "exclude_modules" in settings else 2)
    assert_same_differences(Concept.load(tmp_path).text_encoders[0], expected)


def test_settings_name_layers_as_the_trainers_transformers_did(tmp_path: Path) -> None:
    """Before its version 5 there was ``text_model.`` before them, in the weights and in the settings."""
    adapter(tiny_text_encoder(), tmp_path, target_modules=["q_proj"])
    name = "text_model.encoder.layers.0.self_attn.q_proj"
    state = load_file(tmp_path / "adapter_model.safetensors")
    old = {
        f"base_model.model.text_model.{key.split('model.', 2)[-1].removeprefix('text_model.')}": v
        for key, v in state.items()
    }
    assert f"base_model.model.{name}.lora_A.weight" in old
    save_file(old, tmp_path / "adapter_model.safetensors")
    file = tmp_path / "adapter_config.json"
    changes = {"alpha_pattern": {f"^{name}": 30}, "target_modules": [name, name.replace(".0.", ".1.")]}
    plain = Concept.load(tmp_path).text_encoders[0]
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    stronger = Concept.load(tmp_path).text_encoders[0]
    for layer, factor in (("encoder.layers.0.self_attn.q_proj", 10), ("encoder.layers.1.self_attn.q_proj", 1)):
        torch.testing.assert_close(stronger[layer].up, factor * plain[layer].up)
