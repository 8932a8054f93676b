"""Write a concept in another format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path

import torch

from concept_conductor.concepts import ed_lora, native
from concept_conductor.concepts.concept import Concept, LowRank


class ConceptFormat(str, Enum):
    """The formats that can be written."""

    ours = "ours"
    mixofshow = "mixofshow"

    @property
    def suffix(self) -> str:
        return {"ours": ".safetensors", "mixofshow": ".pth"}[self.value]

    def save(self, concept: Concept, path: str | Path) -> Path:
        """Write ``concept`` in this format, atomically."""
        writer = {"ours": native.save, "mixofshow": ed_lora.save}[self.value]
        return writer(concept, path)


def with_dtype(concept: Concept, dtype: torch.dtype) -> Concept:
    """The same concept in another number type; half precision halves its file."""

    def cast(layers: Mapping[str, LowRank]) -> dict[str, LowRank]:
        return {name: LowRank(update.down.to(dtype), update.up.to(dtype)) for name, update in layers.items()}

    return replace(
        concept,
        tokens=tuple({name: vectors.to(dtype) for name, vectors in table.items()} for table in concept.tokens),
        text_encoders=tuple(map(cast, concept.text_encoders)),
        unet=cast(concept.unet),
    )
