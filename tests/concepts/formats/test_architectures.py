"""LoRAs of other models than the three families are called by their models' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from concept_conductor.concepts.formats import architectures
from concept_conductor.concepts.layer_names import unet_layers
from tests.concepts.files import refused

#: Model -> layers as its own code, diffusers or its trainers call them.
LAYERS: dict[str, list[str]] = {
    "Flux": [
        "double_blocks.3.img_attn.qkv",
        "single_blocks.7.linear2",
        "double_blocks.0.txt_mlp.2",
        "single_transformer_blocks.7.proj_out",
        "single_transformer_blocks.0.attn.to_q",
        "transformer_blocks.3.attn.to_q",
        "transformer_blocks.3.attn.add_k_proj",
        "transformer_blocks.3.ff_context.net.2",
    ],
    "Flux.2": [
        "single_transformer_blocks.7.attn.to_qkv_mlp_proj",
        "double_stream_modulation_img.lin",
    ],
    "Chroma": [
        "distilled_guidance_layer.layers.0.in_layer",
        "double_blocks.3.img_attn.proj",
    ],
    "SD3": [
        "joint_blocks.5.x_block.attn.qkv",
        "joint_blocks.5.context_block.mlp.fc1",
        "transformer_blocks.3.attn2.add_q_proj",
        "transformer_blocks.23.attn.to_q",
    ],
    "HunyuanVideo": [
        "double_blocks.3.img_mlp.fc1",
        "single_blocks.3.linear1",
        "double_blocks.3.img_mod.linear",
        "txt_in.individual_token_refiner.blocks.0.mlp.fc1",
    ],
    "Qwen-Image": [
        "transformer_blocks.3.img_mlp.net.2",
        "transformer_blocks.3.txt_mod.1",
        "transformer_blocks.59.attn.to_q",
    ],
    "Z-Image": [
        "layers.3.attention.to_q",
        "noise_refiner.0.attention.to_out.0",
        "layers.3.attention.qkv",
        "layers.3.feed_forward.w1",
    ],
    "Lumina": [
        "layers.3.attn.to_q",
        "layers.3.attention.wq",
        "context_refiner.0.attention.qkv",
        "layers.3.adaLN_modulation.1",
    ],
    "Wan": [
        "blocks.3.self_attn.q",
        "blocks.3.cross_attn.k_img",
        "blocks.3.ffn.0",
        "blocks.3.attn1.to_q",
    ],
    "Cosmos": [
        "blocks.3.self_attn.q_proj",
        "blocks.3.cross_attn.output_proj",
        "blocks.3.mlp.layer1",
    ],
    "PixArt": [
        "blocks.3.attn.qkv",
        "blocks.3.cross_attn.kv_linear",
        "transformer_blocks.3.attn1.to_q",
        "transformer_blocks.3.ff.net.2",
    ],
    "Sana": [
        "transformer_blocks.3.ff.conv_inverted",
        "transformer_blocks.3.attn2.to_k",
    ],
    "LTX-Video": [
        "transformer_blocks.3.attn2.to_out.0",
    ],
    "CogVideoX": [
        "transformer_blocks.3.attn1.to_v",
    ],
    "AuraFlow": [
        "joint_transformer_blocks.3.attn.to_q",
        "double_layers.3.attn.w1q",
    ],
    "HiDream": [
        "double_stream_blocks.3.block.attn1.to_q",
    ],
    "Hunyuan-DiT": [
        "blocks.3.attn1.Wqkv",
        "blocks.3.default_modulation.1",
        "blocks.3.attn2.to_q",
    ],
    "Mochi": [
        "blocks.3.attn.qkv_x",
    ],
    "Kandinsky": [
        "visual_transformer_blocks.3.self_attention.to_query",
    ],
    "Stable Cascade": [
        "prior.blocks.3.attention.to_q",
    ],
    "AnimateDiff": [
        "down_blocks.0.motion_modules.0.temporal_transformer.proj_in",
    ],
    "Stable Video Diffusion": [
        "down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q",
    ],
    "T5": [
        "encoder.block.3.layer.0.SelfAttention.q",
    ],
    "Qwen or Llama": [
        "model.layers.3.self_attn.q_proj",
        "language_model.layers.3.mlp.up_proj",
    ],
    "OpenCLIP": [
        "transformer.resblocks.3.mlp.c_fc",
    ],
}
TEXT = ("T5", "Qwen or Llama", "OpenCLIP")
STARTS = ("{}.lora_A.weight", "diffusion_model.{}.lora_A.weight", "transformer.{}.lora_down.weight",
          "unet.base_model.model.{}.lora_A.weight", "diffusion_model.{}.lokr_w1")  # fmt: skip
KOHYA = (
    "lora_unet_{}.lora_down.weight",
    "lora_unet_{}.hada_w1_a",
    "lora_transformer_{}.alpha",
    "lycoris_{}.lora_up.weight",
)


@pytest.mark.parametrize("model", list(LAYERS))
def test_a_models_layers_tell_its_name(model: str) -> None:
    text = model in TEXT
    for layer in LAYERS[model]:
        dotted = ("text_encoder.{}.lora_A.weight", "text_encoder_3.{}.lora_A.weight") if text else STARTS
        joined = ("lora_te_{}.lora_down.weight", "lora_te3_{}.lora_down.weight") if text else KOHYA
        names = [start.format(layer) for start in dotted] + [start.format(layer.replace(".", "_")) for start in joined]
        for name in names:
            told = architectures.named([name])
            assert told is not None and model.removesuffix(" or Llama") in told, (name, told)


def test_the_families_own_layers_tell_of_no_other() -> None:
    names = [name for layer, others in unet_layers() for name in (layer, *others)]
    names += [f"encoder.layers.3.{linear}" for linear in ("self_attn.q_proj", "mlp.fc1")]
    assert architectures.named([f"{name}.lora_A.weight" for name in names]) is None
    assert architectures.named(["<prior_art>", "prior_art", "layers_0_self_attn_x"]) is None


def test_the_refusal_says_for_which_model_a_file_is(tmp_path: Path) -> None:
    """Also where it has weights for a text encoder that could be read."""
    text = "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"
    for model in set(LAYERS) - set(TEXT):
        state = {f"lora_unet_{layer.replace('.', '_')}.lora_down.weight": torch.ones(2, 8) for layer in LAYERS[model]}
        save_file({text: torch.ones(2, 8), **state}, tmp_path / "a.safetensors")
        refused(tmp_path / "a.safetensors", "models of another architecture")
    save_file({"transformer.new.0.lora_A.weight": torch.ones(2, 8)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "a diffusion transformer")
