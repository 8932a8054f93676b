"""Kinds of files that cannot be read are called by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.concepts.files import refused


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["lora_unet_x.hada_w1_a"], "LoHa"),
        (["lora_unet_x.lokr_w1"], "LoKr"),
        (["lora_unet_x.oft_blocks"], "OFT"),
        (["lora_unet_x.a1.weight"], "GLoRA"),
        (["lora_unet_x.dora_scale", "lora_unet_x.lora_down.weight"], "DoRA"),
        (["unet.a.lora_magnitude_vector", "unet.a.lora_A.weight"], "DoRA"),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.lora_mid.weight"], "Tucker"),
        (["lora_unet_x.diff"], "full difference"),
        (["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"], "Flux"),
        (["transformer.single_transformer_blocks.0.proj_out.lora_A.weight"], "Flux"),
        (["model.diffusion_model.input_blocks.0.weight"], "whole checkpoint"),
        (["time_embedding.linear_1.weight", "conv_in.weight"], "diffusers U-Net"),
        (["something", "else"], "no concept that is known"),
    ],
)
def test_other_kinds_are_named(tmp_path: Path, keys: list[str], kind: str) -> None:
    tensors = {key: torch.ones(1, 2) for key in keys}
    save_file(tensors, tmp_path / "other.safetensors")
    torch.save(tensors, tmp_path / "other.pt")
    refused(tmp_path / "other.safetensors", kind)
    refused(tmp_path / "other.pt", kind)
