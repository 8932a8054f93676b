"""The attention processor that picks a path's text, records what is asked for, and injects concepts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from concept_conductor.denoiser.paths import Forward, Paths
from concept_conductor.settings import Block


class LayoutReached(Exception):
    """Ends a forward at the layout layer, carrying its keys ``(rows, tokens, channels)``.

    Raised in one place (below) and caught in one (:meth:`Multipath.layout_keys`).
    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self.keys = keys


@dataclass(frozen=True)
class Role:
    """What one attention layer does in the method.

    Attributes:
        index: position among the attention layers.
        block: the part of the U-Net it is in.
        text: index of its layer-wise text, for cross-attention.
        layout: its keys are the layout feature.
        mask: its probabilities are clustered into masks.
        words: its probabilities show where words act.
    """

    index: int
    block: Block
    text: int | None
    layout: bool
    mask: bool
    words: bool


class MultipathProcessor:
    """Wraps the processor that was there (so SDPA and its successors keep working)."""

    def __init__(self, inner: Any, role: Role, paths: Paths) -> None:
        self.inner = inner
        self.role = role
        self.paths = paths

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        role, forward = self.role, self.paths.forward
        if role.text is not None:
            encoder_hidden_states = forward.rows_of_text(role.text)
        if role.layout and forward.stop_at_layout:
            raise LayoutReached(attn.to_k(hidden_states))
        if role.mask:
            self._record_regions(attn, hidden_states)
        if role.words and forward.recording is not None and encoder_hidden_states is not None:
            probabilities = attention_probabilities(attn, hidden_states, encoder_hidden_states, forward)
            forward.recording.cross_attention.append(probabilities)
        output = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask)
        return forward.fuse(role.index, output, role.block, cross_attention=role.text is not None)

    def _record_regions(self, attn: Attention, hidden_states: Tensor) -> None:
        """Keep the mask layer's probabilities for whoever asks: refinement, a look inside, or both."""
        forward = self.paths.forward
        wanted = [] if forward.recording is None else [forward.recording.self_attention]
        if forward.fusion is not None and forward.fusion.record:
            wanted.append(forward.fusion.attention)
        if wanted:
            probabilities = attention_probabilities(attn, hidden_states, hidden_states, forward)
            for kept in wanted:
                kept.append(probabilities)


def attention_probabilities(attn: Attention, hidden_states: Tensor, context: Tensor, forward: Forward) -> Tensor:
    """Return attention probabilities of the conditional rows, the mean over the layer's own heads.

    Args:
        attn: the layer.
        hidden_states: ``(rows, tokens, channels)``, rows path-major with guidance halves: what asks.
        context: ``(rows, tokens, channels)``, what is attended to: the same in self-attention, else the text.
        forward: tells the rows' paths.

    Returns:
        ``(paths, images, tokens, context tokens)`` in fp32; each row sums to 1.
    """
    paths, images = len(forward.texts), forward.images
    query, key = (
        forward.by_path(projection(rows))[:, 0].flatten(0, 1).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for projection, rows in ((attn.to_q, hidden_states), (attn.to_k, context))
    )  # each (paths * images, heads, tokens, head_dim)
    probabilities = sum(
        torch.softmax((query[:, head] @ key[:, head].transpose(1, 2)).float() * attn.scale, dim=-1)
        for head in range(attn.heads)  # one head at a time: all at once would be the largest tensor of the run
    )
    assert isinstance(probabilities, Tensor)
    return (probabilities / attn.heads).unflatten(0, (paths, images))
