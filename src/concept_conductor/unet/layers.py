"""Names and order of the U-Net's attention layers.

Layer-wise texts are numbered in **down, mid, up** order; ``unet.attn_processors`` iterates down, up, mid, so
never number from it.
"""

from __future__ import annotations

from diffusers.models.attention_processor import Attention
from torch import nn

from concept_conductor.errors import ConductorError

STAGES = ("down_blocks.", "mid_block.", "up_blocks.")


def plain(unet: nn.Module) -> nn.Module:
    """The U-Net itself where ``torch.compile`` has wrapped it."""
    original = getattr(unet, "_orig_mod", unet)
    assert isinstance(original, nn.Module)
    return original


def attention_layers(unet: nn.Module) -> dict[str, Attention]:
    """Every attention layer by name, in down, mid, up order."""
    named = [(name, module) for name, module in plain(unet).named_modules() if isinstance(module, Attention)]
    return {name: module for stage in STAGES for name, module in named if name.startswith(stage)}


def cross_attention_names(unet: nn.Module) -> list[str]:
    """Names of the layers that attend to text, in down, mid, up order: their positions number the texts."""
    return [name for name, module in attention_layers(unet).items() if module.is_cross_attention]


def decoder_attention_names(unet: nn.Module) -> list[str]:
    """Names of all self- and cross-attention layers of the up blocks, where concepts are injected."""
    return [name for name in attention_layers(unet) if name.startswith("up_blocks.")]


def self_attention(unet: nn.Module, name: str, purpose: str) -> Attention:
    """The self-attention layer called ``name``.

    Raises:
        ConductorError: the U-Net has no such layer.
    """
    layer = attention_layers(unet).get(name)
    if layer is None or layer.is_cross_attention:
        raise ConductorError(
            f"the {purpose} '{name}' is no self-attention layer of this U-Net; name one such as "
            f"'{next(n for n in decoder_attention_names(unet) if n.endswith('attn1'))}' in conductor.json"
        )
    return layer
