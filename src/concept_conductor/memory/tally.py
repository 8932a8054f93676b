"""Counting the bytes that are alive while a computation runs, on tensors with data or without."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface

#: The name under which transformers knows :func:`fused_text_attention`.
FUSED_TEXT = "concept-conductor-fused"


class Tally(TorchDispatchMode):
    """Inside this context every tensor that an operation makes is counted until it is gone.

    Attributes:
        live: bytes alive now, of those made inside.
        peak: the most there ever were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in given | self._known:  # neither a view nor changed in place
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


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
