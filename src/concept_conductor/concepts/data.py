"""The data of concepts: low-rank and whole weights of layers, token embeddings, and what a file says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor


class LowRank(NamedTuple):
    """The low-rank update of a linear layer or convolution: ``y = W x + up @ (down @ x)``.

    Every scale a file holds is folded into ``up``; only the concept's weight (0.7 in the paper) is
    applied later. A convolution's ``down`` has the layer's own kernel, stride and padding; its ``up`` is 1x1.
    """

    down: Tensor  # (rank, in), or (rank, in, kernel height, kernel width)
    up: Tensor  # (out, rank)

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def scaled(self, weight: float) -> LowRank:
        """Return the same update ``weight`` times as strong, computed in fp32."""
        return LowRank(self.down, self.up.float() * weight)

    def to(self, dtype: torch.dtype) -> LowRank:
        """Return the same update in another number type."""
        return LowRank(self.down.to(dtype), self.up.to(dtype))


class FullWeight(NamedTuple):
    """A whole weight that takes a linear layer's place: ``y = (W + strength * (weight - W)) x``.

    Custom Diffusion stores these; how far they are from the base is known only where the base is.
    """

    weight: Tensor  # (out, in)
    strength: float = 1.0

    @property
    def rank(self) -> int:
        return min(self.weight.shape)

    def scaled(self, weight: float) -> FullWeight:
        """Return the same update ``weight`` times as strong."""
        return FullWeight(self.weight, self.strength * weight)

    def to(self, dtype: torch.dtype) -> FullWeight:
        """Return the same update in another number type."""
        return FullWeight(self.weight.to(dtype), self.strength)

    def low_rank(self, base: Tensor) -> LowRank:
        """Return the exact update of the layer whose weight is ``base (out, in)``; one half is the identity."""
        delta = self.strength * (self.weight.to(base.device).float() - base.float())
        identity = torch.eye(self.rank, device=base.device)
        return LowRank(delta, identity) if len(delta) == self.rank else LowRank(identity, delta)


#: What a concept does to one layer.
Update: TypeAlias = LowRank | FullWeight


@dataclass(frozen=True, eq=False)
class ConceptPart:
    """What one file, or several that belong together, hold of a concept (ED-LoRA: the paper's "Preliminary").

    Attributes:
        name: a short name for messages and file names.
        tokens: for each text encoder, placeholder -> embeddings ``(layers, dim)``; ``layers`` counts the
            U-Net's cross-attention layers in down, mid, up order, or is 1 for the same vector everywhere.
            A placeholder that stands for several positions of the text has ``(positions, layers, dim)``.
            A table is empty where the concept is spoken of in ordinary words.
        text_encoders: for each text encoder, layer name (``encoder.layers.0.self_attn.q_proj``) -> update.
        unet: layer name (``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q``) -> update.
        metadata: what the file says of itself, strings only.
        source: the files it was read from, for messages; empty for one that was made in memory.
    """

    name: str
    tokens: tuple[Mapping[str, Tensor], ...] = ({},)
    text_encoders: tuple[Mapping[str, Update], ...] = ({},)
    unet: Mapping[str, Update] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names that stand for this concept in a prompt, in order; none for a LoRA without tokens."""
        return tuple(self.tokens[0])

    @property
    def positions(self) -> dict[str, int]:
        """Placeholder -> how many positions of the text it takes."""
        return {name: len(vectors) if vectors.ndim == 3 else 1 for name, vectors in self.tokens[0].items()}

    @property
    def phrase(self) -> str | None:
        """What to write where the concept should stand: its placeholders, or the trigger words its file names."""
        return " ".join(self.placeholders) or self.metadata.get("trigger_words")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, placeholders={list(self.placeholders)}, layers={len(self.unet)})"
