"""The attention processor of training: each sample's layer-wise text, and the placeholders' attention maps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from concept_conductor.denoiser.layers import attention_layers, cross_attention_names
from concept_conductor.denoiser.masks import token_grid
from concept_conductor.denoiser.paths import Paths


@dataclass
class AttentionMaps:
    """Cross-attention of one forward to the placeholders.

    Attributes:
        positions: of the placeholders in each sample's text, ``(B, placeholders)``.
        latent_size: height and width of the latents, which tells the maps' shapes.
        by_resolution: for each ``(h, w)`` one tensor ``(B, placeholders, h, w)`` per layer, mean over heads.
    """

    positions: Tensor
    latent_size: tuple[int, int]
    by_resolution: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)

    def record(self, attn: Attention, hidden_states: Tensor, text: Tensor) -> None:
        """Record the maps of one layer, from its own queries and keys.

        Args:
            attn: the layer.
            hidden_states: ``(B, h * w, channels)``.
            text: ``(B, tokens, dim)``.
        """
        query, key = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, heads, tokens, head_dim)
            for projected in (attn.to_q(hidden_states), attn.to_k(text))
        )
        scores = (query @ key.transpose(2, 3)).float() * attn.scale  # (B, heads, h * w, text tokens)
        where = self.positions[:, None, None].expand(-1, *scores.shape[1:3], -1)
        probabilities = torch.softmax(scores, -1).gather(-1, where).mean(1)  # (B, h * w, placeholders)
        grid = token_grid(hidden_states.shape[1], self.latent_size)
        self.by_resolution.setdefault(grid, []).append(probabilities.transpose(1, 2).unflatten(-1, grid))


class TrainingPaths(Paths):
    """One path with a text of its own for each sample; ``maps`` is set where attention is regularised."""

    maps: AttentionMaps | None = None


class TrainingProcessor:
    """Wraps the processor of a cross-attention layer."""

    def __init__(self, inner: Any, text: int, paths: TrainingPaths) -> None:
        self.inner = inner
        self.text = text
        self.paths = paths

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        text = self.paths.forward.rows_of_text(self.text)
        if self.paths.maps is not None:
            self.paths.maps.record(attn, hidden_states, text)
        output: Tensor = self.inner(attn, hidden_states, text, attention_mask)
        return output


@contextmanager
def layerwise_texts(unet: UNet2DConditionModel) -> Iterator[TrainingPaths]:
    """Inside this context every cross-attention layer reads its own text; afterwards the U-Net is what it was."""
    before = dict(unet.attn_processors)
    paths = TrainingPaths()
    layers = attention_layers(unet)
    changed = {
        f"{name}.processor": TrainingProcessor(layers[name].processor, text, paths)
        for text, name in enumerate(cross_attention_names(unet))
    }
    try:
        unet.set_attn_processor({**before, **changed})
        yield paths
    finally:
        unet.set_attn_processor(before)
