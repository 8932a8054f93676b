"""Names and order of the U-Net's attention layers.

Layer-wise texts are numbered in **down, mid, up** order; ``unet.attn_processors`` iterates down, up, mid, so
never number from it.
"""

from __future__ import annotations

from diffusers.models.attention_processor import Attention
from torch import nn

from concept_conductor.errors import ConductorError
from concept_conductor.settings import Block

STAGES: dict[Block, str] = {"down": "down_blocks.", "mid": "mid_block.", "up": "up_blocks."}


def unwrap_compiled(unet: nn.Module) -> nn.Module:
    """Return the U-Net itself where ``torch.compile`` has wrapped it."""
    original = getattr(unet, "_orig_mod", unet)
    assert isinstance(original, nn.Module)
    return original


def attention_layers(unet: nn.Module) -> dict[str, Attention]:
    """Return every attention layer by name, in down, mid, up order."""
    named = [(name, module) for name, module in unwrap_compiled(unet).named_modules() if isinstance(module, Attention)]
    return {name: module for stage in STAGES.values() for name, module in named if name.startswith(stage)}


def cross_attention_names(unet: nn.Module) -> list[str]:
    """Name the layers that attend to text, in down, mid, up order: their positions number the texts."""
    return [name for name, module in attention_layers(unet).items() if module.is_cross_attention]


def block_of(name: str) -> Block:
    """Return which part of the U-Net the layer called ``name`` is in."""
    (block,) = (block for block, stage in STAGES.items() if name.startswith(stage))
    return block


def self_attention(unet: nn.Module, name: str, purpose: str) -> Attention:
    """Return the self-attention layer called ``name``.

    Raises:
        ConductorError: the U-Net has no such layer.
    """
    return _attention(unet, name, purpose, cross_attention=False)


def cross_attention(unet: nn.Module, name: str, purpose: str) -> Attention:
    """Return the layer called ``name``, which attends to text.

    Raises:
        ConductorError: the U-Net has no such layer.
    """
    return _attention(unet, name, purpose, cross_attention=True)


def _attention(unet: nn.Module, name: str, purpose: str, *, cross_attention: bool) -> Attention:
    layer = attention_layers(unet).get(name)
    if layer is None or layer.is_cross_attention != cross_attention:
        kind, ending = ("cross-attention", "attn2") if cross_attention else ("self-attention", "attn1")
        example = next(n for n in attention_layers(unet) if block_of(n) == "up" and n.endswith(ending))
        raise ConductorError(
            f"the {purpose} '{name}' is no {kind} layer of this U-Net; name one such as '{example}' in conductor.json"
        )
    return layer
