"""Models of other architectures, told by the names of their layers, so that a refusal can say what a file is for."""

from __future__ import annotations

import re
from collections.abc import Collection

from concept_conductor.concepts.formats.lora_keys import PART
from concept_conductor.concepts.layer_names import WRAPPERS

#: What stands before a layer's name, in any order and number.
STARTS = re.compile(
    r"^(lora_unet_|lora_transformer_|lora_te\d?_|lora_|lycoris_|unet_|diffusion_model_|model_|dit_|net_"
    r"|text_encoders?_(\d_|one_|two_|three_)?|(t5xxl|gemma\w*|qwen\w*|llama\w*)_transformer_|text_model_)+"
)
TRANSFORMER = ("transformer.", "lora_transformer_")
_BLOCK = r"^(double_blocks|single_blocks)_\d+_"

#: Model -> how a layer of it is called, ``_`` for every dot; the first that fits any layer counts, special ones first.
ARCHITECTURES: dict[str, str] = {
    "AnimateDiff": r"motion_modules?_",
    "Stable Video Diffusion": r"temporal_transformer_blocks_|temporal_res_block|spatial_res_block",
    "Stable Cascade": r"^prior_|^(down|up)_blocks_\d+_\d+_(attention|mapper|channelwise|depthwise)",
    "a ControlNet": r"^controlnet|zero_convs|input_hint_block|controlnet_(cond|down|mid)",
    # transformers, by names that only they have
    "Chroma": r"^distilled_guidance_layer",
    "Flux.2": r"_stream_modulation_|_attn_to_qkv_mlp_proj",
    "HunyuanVideo": rf"{_BLOCK}(img|txt)_(mlp_fc|mod_linear|attn_q_norm)|token_refiner",
    "AuraFlow": r"^joint_transformer_blocks|^(double|single)_layers_\d+_",
    "HiDream": r"^(double|single)_stream_blocks",
    "Kandinsky 5": r"^(visual|text)_transformer_blocks",
    "Qwen-Image": r"^transformer_blocks_(\d+_(img|txt)_(mod|mlp)|(3[89]|[45]\d)_attn)_",
    "SD3": r"^joint_blocks_|^transformer_blocks_\d+_attn2_add_",
    "Sana": r"^transformer_blocks_\d+_ff_conv_",
    "Z-Image": r"^(layers|noise_refiner|context_refiner)_\d+_attention_to_|^all_(x_embedder|final_layer)",
    "Lumina": r"^(layers|noise_refiner|context_refiner)_\d+_(attn[12]?_to_|feed_forward_linear|attention_w[qkvo])",
    "Hunyuan-DiT": r"^blocks_\d+_(attn1_(Wqkv|out_proj)|attn2_(q|kv)_proj|default_modulation|skip_linear)",
    "Mochi": r"^blocks_\d+_attn_(qkv|proj)_[xy]",
    "PixArt": r"^blocks_\d+_(attn_qkv|attn_proj|cross_attn_(q|kv)_linear)",
    "Cosmos or Anima": r"^blocks_\d+_(self_attn|cross_attn)_(q|k|v|output)_proj|^blocks_\d+_mlp_layer|^llm_adapter",
    "Wan": r"^blocks_\d+_((self_attn|cross_attn)_|ffn_|attn2_add_)",
    # and by names that several have
    "Flux, Chroma or HunyuanVideo": rf"{_BLOCK}|^single_transformer_blocks_\d+_",
    "Lumina or Z-Image": r"^(layers|noise_refiner|context_refiner)_\d+_(attention|feed_forward|adaLN)",
    "SD3 or Qwen-Image": r"^transformer_blocks_(19|[23]\d)_attn_",
    "Flux, SD3 or Qwen-Image": r"^transformer_blocks_\d+_(attn_|ff_context|norm1_context)",
    "Wan or Hunyuan-DiT": r"^blocks_\d+_attn[12]_",
    "PixArt, Sana, LTX-Video or CogVideoX": r"^transformer_blocks_\d+_|^adaln_single|^caption_projection",
    "a text encoder such as T5": r"^(encoder_)?block_\d+_layer_\d+_",
    "a language model such as Qwen or Llama": r"^(language_model_)*layers_\d+_(self_attn|mlp)_",
    "a text encoder in OpenCLIP's names": r"^resblocks_|_resblocks_\d+_",
}


def named(names: Collection[str]) -> str | None:
    """Return the model that layers are of, by the ``names`` of tensors; None where they tell of none."""
    # a placeholder's name may be anything, but has no dot where it stands alone
    layers = [_layer(name) for name in names if "." in name]
    for model, pattern in ARCHITECTURES.items():
        if any(re.search(pattern, layer) for layer in layers):
            return model
    return "a diffusion transformer" if any(name.startswith(TRANSFORMER) for name in names) else None


def _layer(name: str) -> str:
    match = PART.fullmatch(name)
    dotted = re.sub(r"(^|\.)transformer\.", r"\1", WRAPPERS.sub("", match["layer"] if match else name))
    return STARTS.sub("", dotted.replace(".", "_"))
