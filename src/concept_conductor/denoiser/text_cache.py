"""Keys and values of the text: the text is the same at every step, so they are computed at the first alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from concept_conductor.denoiser.layers import attention_layers
from concept_conductor.denoiser.paths import Paths

PROJECTIONS = ("to_k", "to_v")


class CachedProjection(nn.Module):
    """Project the text with ``base``, or return what the run has kept of it.

    Args:
        base: the layer's projection, path-wise or not.
        name: tells it from others.
        paths: tells what the present forward remembers.
    """

    def __init__(self, base: nn.Module, name: str, paths: Paths) -> None:
        super().__init__()
        self.base = base
        self.name = name
        self.paths = paths

    def forward(self, text: Tensor) -> Tensor:
        """``(rows, tokens, dim)`` to ``(rows, tokens, channels)``."""
        return self.paths.forward.remember(self.name, lambda: self.base(text))


@contextmanager
def cached_text_kv(unet: nn.Module, paths: Paths) -> Iterator[None]:
    """Inside this context cross-attention projects each text once."""
    before = {
        f"{name}.{child}": (layer, child, getattr(layer, child))
        for name, layer in attention_layers(unet).items()
        if layer.is_cross_attention
        for child in PROJECTIONS
    }
    try:
        for name, (layer, child, base) in before.items():
            setattr(layer, child, CachedProjection(base, name, paths))
        yield
    finally:
        for layer, child, base in before.values():
            setattr(layer, child, base)
