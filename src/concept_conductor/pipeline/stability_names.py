"""Where Stability's single-file checkpoints hold the weights of diffusers' networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from concept_conductor.pipeline.weights import TEXT_MODEL, StoredTensor

UNET_PREFIX, VAE_PREFIX = "model.diffusion_model.", "first_stage_model."

ATTENTIONS = "attentions"
UNET_LAYERS = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_LAYERS = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}
OPEN_CLIP = {
    "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}  # fmt: skip
OPEN_CLIP_WHOLE = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}


class Place(NamedTuple):
    """Where a checkpoint holds a weight.

    Attributes:
        name: of the tensor there.
        third: which third of it, for queries, keys and values that lie in one; None for all of it.
        transposed: whether it lies there transposed.
    """

    name: str
    third: int | None = None
    transposed: bool = False


def unet_place(key: str, config: Mapping[str, Any]) -> Place:
    """Return where a U-Net's weight lies, after :data:`UNET_PREFIX`; ``config`` is the U-Net's."""
    layer, _, kind = key.rpartition(".")
    if layer in UNET_LAYERS:
        return Place(f"{UNET_LAYERS[layer]}.{kind}")
    stage, *parts = layer.split(".")
    count = int(config["layers_per_block"]) + 1
    if stage == "mid_block":
        number = 1 if parts[0] == ATTENTIONS else 2 * int(parts[1])
        return Place(f"{_inside(f'middle_block.{number}', parts[0], parts[2:])}.{kind}")
    block, part, index, rest = int(parts[0]), parts[1], int(parts[2]), parts[3:]
    if part == "downsamplers":
        return Place(f"input_blocks.{count * (block + 1)}.0.op.{kind}")
    if part == "upsamplers":
        beside = 2 if "CrossAttn" in config["up_block_types"][block] else 1
        return Place(f"output_blocks.{count * block + count - 1}.{beside}.conv.{kind}")
    number = count * block + index
    where = f"input_blocks.{number + 1}" if stage == "down_blocks" else f"output_blocks.{number}"
    return Place(f"{_inside(f'{where}.{int(part == ATTENTIONS)}', part, rest)}.{kind}")


def _inside(where: str, part: str, rest: list[str]) -> str:
    """Return the name of a layer of a block's residual network or attention."""
    return ".".join([where, *(rest if part == ATTENTIONS else [RESNET[".".join(rest)]])])


def vae_place(key: str, config: Mapping[str, Any]) -> Place:
    """Return where a VAE's weight lies, after :data:`VAE_PREFIX`; ``config`` is the VAE's."""
    layer, _, kind = key.rpartition(".")
    parts = [VAE_LAYERS.get(part, part) for part in layer.split(".")]
    half, stage = parts[0], parts[1] if len(parts) > 1 else ""
    if stage == "mid_block":
        inner = ".".join(parts[4:])
        if parts[2] == ATTENTIONS:
            return Place(f"{half}.mid.attn_1.{VAE_ATTENTION[inner]}.{kind}")
        return Place(f"{half}.mid.block_{int(parts[3]) + 1}.{inner}.{kind}")
    if stage in ("down_blocks", "up_blocks"):
        number = int(parts[2]) if stage == "down_blocks" else len(config["block_out_channels"]) - 1 - int(parts[2])
        where = f"{half}.{stage.removesuffix('_blocks')}.{number}"
        if parts[3] == "resnets":
            return Place(f"{where}.block.{parts[4]}.{parts[5]}.{kind}")
        return Place(f"{where}.{'downsample' if stage == 'down_blocks' else 'upsample'}.conv.{kind}")
    return Place(f"{'.'.join(parts)}.{kind}")


def open_clip_place(key: str) -> Place:
    """Return where a text encoder's weight lies in an OpenCLIP model; ``key`` without "text_model."."""
    if key in OPEN_CLIP_WHOLE:
        return Place(OPEN_CLIP_WHOLE[key], transposed=key == "text_projection.weight")
    layer, _, kind = key.rpartition(".")
    _, _, number, *rest = layer.split(".")
    inner, block = ".".join(rest), f"transformer.resblocks.{number}"
    if inner in OPEN_CLIP:
        return Place(f"{block}.{OPEN_CLIP[inner]}.{kind}")
    third = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj").index(inner)
    return Place(f"{block}.attn.in_proj_{kind}", third)


def plain(key: str) -> str:
    """Return a text encoder's key without the wrappers that only some versions have."""
    return TEXT_MODEL.sub(r"\1", key).lstrip(".")


def taken(stored: StoredTensor, place: Place, shape: tuple[int, ...]) -> StoredTensor:
    """Return the tensor at ``place`` as a network of ``shape`` there has it."""
    if place.third is not None and stored.shape[:1] == (3 * shape[0],):
        first = place.third * shape[0]
        rows = slice(first, first + shape[0])
        return replace(stored, shape=(shape[0], *stored.shape[1:]), read=lambda: stored.read()[rows])
    if place.transposed and len(stored.shape) == 2:
        return replace(stored, shape=stored.shape[::-1], read=lambda: stored.read().T)
    if len(stored.shape) > len(shape) and stored.shape == (*shape, *[1] * (len(stored.shape) - len(shape))):
        return replace(stored, shape=shape, read=lambda: stored.read().reshape(shape))  # a convolution of 1x1
    return stored
