"""Attention of a model without data: the memory of a fused kernel, and no numbers."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers import AttentionInterface

#: The name under which transformers knows :func:`fused_text_attention`.
FUSED_TEXT = "concept-conductor-fused"


class _Fused(torch.autograd.Function):
    """Attention with the memory of a fused kernel: no probabilities, forwards or backwards. No numbers either."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def fused_text_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """The same for transformers: ``(rows, heads, tokens, dim)`` in, ``(rows, tokens, heads, dim)`` out."""
    return _Fused.apply(query, key, value).transpose(1, 2), None


AttentionInterface.register(FUSED_TEXT, fused_text_attention)


class FusedProcessor:
    """An attention processor with a GPU's memory; torch, without data, would write the probabilities out."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        pixels = hidden_states.ndim == 4  # the VAE's
        rows = hidden_states.flatten(2).transpose(1, 2) if pixels else hidden_states
        context = rows if encoder_hidden_states is None else encoder_hidden_states
        output: Tensor = attn.to_out[0](_Fused.apply(attn.to_q(rows), attn.to_k(context), attn.to_v(context)))
        if pixels:
            output = output.transpose(1, 2).reshape(hidden_states.shape)
        return output + hidden_states if attn.residual_connection else output
