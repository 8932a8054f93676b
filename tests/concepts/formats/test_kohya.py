"""kohya's LoRA files give what PEFT's own layers give."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file
from torch import Tensor

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats import kohya
from concept_conductor.errors import FamilyError
from tests.concepts.files import pair
from tests.concepts.models import (
    FAMILIES,
    check,
    trained,
)
from tests.stability import unet_layer


@pytest.mark.parametrize("kinds", ["attention", "everything"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kohya_files(tmp_path: Path, family: str, kinds: str) -> None:
    """LoRA and LoCon, 1x1 and 3x3, with alpha over rank."""
    result = trained(family, kinds, lora_alpha=6)
    state = convert_state_dict_to_kohya(result.packed)
    assert all(key.startswith("lora_") for key in state)
    state = {key: torch.tensor(6.0) if key.endswith(".alpha") else value for key, value in state.items()}
    save_file(state, tmp_path / "kohya.safetensors")
    check(tmp_path / "kohya.safetensors", result)


def test_kohya_files_of_sdxl_in_stabilitys_names(tmp_path: Path) -> None:
    result = trained("sdxl", "everything")
    state: dict[str, Tensor] = {}
    for key, value in result.states["unet"].items():
        layer, _, half = key.removesuffix(".weight").rpartition(".")
        name = "lora_unet_" + unet_layer(layer).replace(".", "_")
        state[f"{name}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value
        state[f"{name}.alpha"] = torch.tensor(2.0)
    assert len(state) == len(result.states["unet"]) * 3 // 2
    text = {key: value for key, value in result.packed.items() if key.startswith("text_encoder")}
    save_file({**state, **convert_state_dict_to_kohya(text)}, tmp_path / "kohya.safetensors")
    check(tmp_path / "kohya.safetensors", result)


def test_mixed_families_are_refused(tmp_path: Path) -> None:
    one, other = (convert_state_dict_to_kohya(trained(family).packed) for family in FAMILIES)
    key = next(key for key in other if "attn2_to_k.lora_down" in key and "up_blocks_1_attentions_2" in key)
    up = key.replace("lora_down", "lora_up")
    strange = "lora_unet_up_blocks_3_attentions_0_transformer_blocks_0_attn2_to_k"
    mixed = {**one, f"{strange}.lora_down.weight": other[key], f"{strange}.lora_up.weight": other[up]}
    save_file(mixed, tmp_path / "mixed.safetensors")
    with pytest.raises(FamilyError, match="'mixed' mixes families: .* SD1.5's but .* SDXL's"):
        Concept.load(tmp_path / "mixed.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_one_text_encoder_is_called_as_by_kohya(tmp_path: Path, family: str) -> None:
    """``lora_te_`` for SD, ``lora_te1_`` and ``lora_te2_`` for SDXL; each alpha is its rank."""
    result = trained(family)
    for name, adapter in result.adapters.items():
        adapter.save_pretrained(tmp_path / "peft" / name)
    state = load_file(kohya.save(Concept.load(tmp_path / "peft"), tmp_path / "kohya.safetensors"))
    starts = {"lora_unet_"} | ({"lora_te1_", "lora_te2_"} if family == "sdxl" else {"lora_te_"})
    assert {re.match(r"lora_[a-z0-9]+_", key)[0] for key in state} == starts  # type: ignore[index]
    assert {float(value) for key, value in state.items() if key.endswith(".alpha")} == {2.0}
    check(tmp_path / "kohya.safetensors", result)


@pytest.mark.parametrize("model", ["lora_te", "lora_te1", "lora_te2"])
@pytest.mark.parametrize("layer", ["text_model_encoder", "encoder", "text_model_text_model_encoder"])
def test_spellings_of_text_encoders(tmp_path: Path, model: str, layer: str) -> None:
    """With the wrapper of transformers, without it (NovelAI's and later versions'), and with two of them."""
    name = f"{model}_{layer}_layers_1_self_attn_q_proj"
    save_file(pair(name, ".lora_down.weight", ".lora_up.weight"), tmp_path / "a.safetensors")
    encoders = Concept.load(tmp_path / "a.safetensors").text_encoders
    assert set(encoders[-1]) == {"encoder.layers.1.self_attn.q_proj"}
    assert len(encoders) == (2 if model == "lora_te2" else 1)


def test_both_ways_of_naming_in_one_file(tmp_path: Path) -> None:
    state = pair("lora_unet_input_blocks_1_1_proj_in") | pair("lora_unet_mid_block_attentions_0_proj_out")
    save_file(state, tmp_path / "a.safetensors")
    assert set(Concept.load(tmp_path / "a.safetensors").unet) == {
        "down_blocks.0.attentions.0.proj_in", "mid_block.attentions.0.proj_out",
    }  # fmt: skip


def test_names_of_lycoris_for_diffusers(tmp_path: Path) -> None:
    save_file(pair("lycoris_mid_block_attentions_0_proj_out"), tmp_path / "a.safetensors")
    assert set(Concept.load(tmp_path / "a.safetensors").unet) == {"mid_block.attentions.0.proj_out"}
