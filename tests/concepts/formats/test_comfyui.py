"""LoRA files in Stability's layer names give what PEFT's own layers give, for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.inspection import inspect
from tests.concepts.files import refused
from tests.concepts.models import FAMILIES, Trained, check, trained
from tests.stability import unet_layer

CLIP = {"text_encoder": "text_encoders.clip_l", "text_encoder_2": "text_encoders.clip_g"}


def named(result: Trained, unet: str, text: str, underscores: bool) -> dict[str, Tensor]:
    """The adapters' tensors under Stability's names, the networks called as given."""
    state: dict[str, Tensor] = {}
    for key, value in result.packed.items():
        model, _, layer = key.removesuffix(".weight").partition(".")
        layer, _, half = layer.rpartition(".")
        if model == "unet":
            block = layer.split(".")
            beside = block[0] != "up_blocks" or has_attention(result.models.networks["unet"], int(block[1]))
            name = unet + unet_layer(layer, beside)
        else:
            layer = "text_model." + layer.removeprefix("text_model.") if layer != "text_projection" else layer
            name = (text or f"{CLIP[model]}.transformer.") + layer
        if underscores:
            name = name.replace(".", "_")
        state[f"{name}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value.contiguous()
    return state


def has_attention(unet: nn.Module, block: int) -> bool:
    return any(name.startswith(f"up_blocks.{block}.attentions") for name, _ in unet.named_modules())


@pytest.mark.parametrize("prefix", ["diffusion_model.", "model.diffusion_model."])
@pytest.mark.parametrize("family", FAMILIES)
def test_comfyuis_files(tmp_path: Path, family: str, prefix: str) -> None:
    result = trained(family, "everything")
    path = tmp_path / "comfyui.safetensors"
    save_file(named(result, prefix, "", underscores=False), path)
    assert inspect(path).kind == "LoRA in Stability's layer names (ComfyUI)"
    check(path, result)


def test_sd15_in_stabilitys_names_with_underscores(tmp_path: Path) -> None:
    result = trained("sd15", "everything")
    state = named(result, "lora_unet_", "lora_te_", underscores=True)
    assert any("output_blocks_2_1_conv" in key for key in state)  # after a block without attention
    save_file(state, tmp_path / "kohya.safetensors")
    check(tmp_path / "kohya.safetensors", result)


def test_a_difference_that_was_not_made_low_rank(tmp_path: Path) -> None:
    """ComfyUI writes the whole one where no rank is enough, and differences of biases, which cannot be used."""
    layer = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
    save_file({f"{layer}.diff": torch.ones(8, 4)}, tmp_path / "a.safetensors")
    (update,) = Concept.load(tmp_path / "a.safetensors").unet.values()
    assert isinstance(update, LowRank)
    torch.testing.assert_close(update.up @ update.down, torch.ones(8, 4))
    save_file({f"{layer}.diff": torch.ones(8, 4), f"{layer}.diff_b": torch.ones(8)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "trained biases")


@pytest.mark.parametrize("name", ["input_blocks.0.1.op", "input_blocks.1.0.in_layers.0", "out.0", "blocks.0.q"])
def test_layers_that_no_family_has(tmp_path: Path, name: str) -> None:
    state = {f"diffusion_model.{name}.lora_{half}.weight": torch.ones(2, 2) for half in ("down", "up")}
    save_file(state, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", name, "no U-Net")
