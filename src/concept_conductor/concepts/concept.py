"""What a concept is: layer-wise token embeddings and low-rank weights, whatever file they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from torch import Tensor


class LowRank(NamedTuple):
    """The low-rank update of one linear layer: ``y = W x + up @ (down @ x)``.

    Every scale a file holds is folded into ``up``; only the concept's weight (0.7 in the paper) is
    applied later.
    """

    down: Tensor  # (rank, in)
    up: Tensor  # (out, rank)

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, eq=False)
class Concept:
    """One personalized subject (ED-LoRA: Section "Preliminary" of the paper; files: ``concepts/``).

    Attributes:
        name: a short name for messages and file names.
        tokens: for each text encoder, placeholder -> embeddings ``(layers, dim)``; ``layers`` counts the
            U-Net's cross-attention layers in down, mid, up order, or is 1 for the same vector everywhere.
        text_encoders: for each text encoder, layer name (``encoder.layers.0.self_attn.q_proj``) -> update.
        unet: layer name (``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q``) -> update.
        metadata: what the file says of itself, strings only.
    """

    name: str
    tokens: tuple[Mapping[str, Tensor], ...]
    text_encoders: tuple[Mapping[str, LowRank], ...] = ({},)
    unet: Mapping[str, LowRank] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """The names that stand for this concept in a prompt, in order."""
        return tuple(self.tokens[0])

    @classmethod
    def load(cls, source: str | Path) -> Concept:
        """Read any supported file; see :func:`concept_conductor.concepts.load_concept`."""
        from concept_conductor.concepts import load_concept

        return load_concept(source)

    def save(self, path: str | Path) -> Path:
        """Write our own safetensors format; the file appears whole or not at all."""
        from concept_conductor.concepts import native

        return native.save(self, path)

    def __repr__(self) -> str:
        return f"Concept({self.name!r}, placeholders={list(self.placeholders)}, layers={len(self.unet)})"
