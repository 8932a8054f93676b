"""Stability's names for the parts of a model, as its own code and single-file checkpoints have them.

The inverse of what diffusers converts, so that real layouts can be written from tiny diffusers models.
"""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

WHOLE = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
RESIDUAL = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_BLOCKS = 4
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def unet_layer(layer: str, attention_beside: bool = True) -> str:
    """The name of a U-Net's layer; from diffusers' name.

    Args:
        attention_beside: for an upsampler, whether its block has attention, after which it is counted.
    """
    parts = layer.split(".")
    if layer in WHOLE:
        return WHOLE[layer]
    if parts[0] == "mid_block":
        number = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        rest = parts[3:] if parts[1] == "attentions" else [RESIDUAL[parts[3]]]
        return ".".join(["middle_block", str(number), *rest])
    block, kind, index, rest = int(parts[1]), parts[2], int(parts[3]), parts[4:]
    if parts[0] == "down_blocks":
        if kind == "downsamplers":
            return f"input_blocks.{3 * block + 3}.0.op"
        where = f"input_blocks.{3 * block + 1 + index}"
    else:
        if kind == "upsamplers":
            return f"output_blocks.{3 * block + 2}.{2 if attention_beside else 1}.conv"
        where = f"output_blocks.{3 * block + index}"
    return f"{where}.0.{RESIDUAL[rest[0]]}" if kind == "resnets" else ".".join([where, "1", *rest])


def checkpoint(pipe: DiffusionPipeline) -> dict[str, Tensor]:
    """All weights of a pipeline, SD1.5's, SD2.1's or SDXL's, as its family's original checkpoint has them."""
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in _unet(pipe.unet).items()}
    state |= {f"first_stage_model.{name}": tensor for name, tensor in _vae(pipe.vae).items()}
    state["alphas_cumprod"] = pipe.scheduler.alphas_cumprod  # nobody reads it, everybody has it
    if getattr(pipe, "text_encoder_2", None) is not None:
        state |= _clip(pipe.text_encoder, "conditioner.embedders.0.transformer.")
        state |= _open_clip(pipe.text_encoder_2, "conditioner.embedders.1.model.")
    elif pipe.unet.config.cross_attention_dim == 1024:
        state |= _open_clip(pipe.text_encoder, "cond_stage_model.model.")
    else:
        state |= _clip(pipe.text_encoder, "cond_stage_model.transformer.")
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _unet(unet: nn.Module) -> dict[str, Tensor]:
    state = {}
    for key, tensor in unet.state_dict().items():
        layer, _, kind = key.rpartition(".")
        beside = layer.startswith("up_blocks") and "CrossAttn" in unet.config.up_block_types[int(layer.split(".")[1])]
        state[f"{unet_layer(layer, beside)}.{kind}"] = tensor
    return state


def _vae(vae: nn.Module) -> dict[str, Tensor]:
    state = {}
    for key, tensor in vae.state_dict().items():
        layer, _, kind = key.rpartition(".")
        parts = layer.split(".")
        if parts[1:2] == ["mid_block"]:
            inner = ".".join(parts[4:])
            if parts[2] == "attentions":
                name = f"{parts[0]}.mid.attn_1.{VAE_ATTENTION[inner]}"
                tensor = tensor[..., None, None] if tensor.ndim == 2 else tensor  # a 1x1 convolution there
            else:
                name = f"{parts[0]}.mid.block_{int(parts[3]) + 1}.{inner}"
        elif parts[1:2] in (["down_blocks"], ["up_blocks"]):
            down = parts[1] == "down_blocks"
            number = int(parts[2]) if down else VAE_BLOCKS - 1 - int(parts[2])
            where = f"{parts[0]}.{'down' if down else 'up'}.{number}"
            if parts[3] == "resnets":
                name = f"{where}.block.{parts[4]}.{parts[5].replace('conv_shortcut', 'nin_shortcut')}"
            else:
                name = f"{where}.{'downsample' if down else 'upsample'}.conv"
        else:
            name = layer.replace("conv_norm_out", "norm_out")
        state[f"{name}.{kind}"] = tensor
    return state


def _text(encoder: nn.Module) -> dict[str, Tensor]:
    """The weights of the text model itself; transformers wraps it or not."""
    return {key.removeprefix("text_model."): tensor for key, tensor in encoder.state_dict().items()}


def _clip(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    state = {f"{prefix}text_model.{key}": tensor for key, tensor in _text(encoder).items()}
    state[f"{prefix}text_model.embeddings.position_ids"] = torch.arange(77)[None]  # as old transformers saved it
    return state


def _open_clip(encoder: nn.Module, prefix: str) -> dict[str, Tensor]:
    text = _text(encoder)
    state = {
        "token_embedding.weight": text.pop("embeddings.token_embedding.weight"),
        "positional_embedding": text.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": text.pop("final_layer_norm.weight"),
        "ln_final.bias": text.pop("final_layer_norm.bias"),
        "logit_scale": torch.tensor(4.6),
    }
    projection = text.pop("text_projection.weight", None)
    state["text_projection"] = torch.eye(encoder.config.hidden_size) if projection is None else projection.T
    for key in list(text):
        layer, _, kind = key.rpartition(".")
        _, _, number, *rest = layer.split(".")
        block, inner = f"transformer.resblocks.{number}", ".".join(rest)
        if inner == "self_attn.q_proj":
            parts = [text[f"encoder.layers.{number}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
        elif inner == "self_attn.out_proj":
            state[f"{block}.attn.out_proj.{kind}"] = text[key]
        elif not inner.startswith("self_attn"):
            state[f"{block}.{OPEN_CLIP[inner]}.{kind}"] = text[key]
    return {prefix + name: tensor for name, tensor in state.items()}
