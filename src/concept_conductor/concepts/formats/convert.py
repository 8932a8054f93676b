"""Write a concept in another format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from pathlib import Path

import torch

from concept_conductor.concepts.data import ConceptPart, Update
from concept_conductor.concepts.formats import diffusers_lora, ed_lora, kohya, native


class ConceptFormat(str, Enum):
    """The formats that can be written."""

    ours = "ours"
    mixofshow = "mixofshow"
    kohya = "kohya"
    diffusers = "diffusers"

    @property
    def suffix(self) -> str:
        return ".pth" if self is ConceptFormat.mixofshow else ".safetensors"

    def save(self, concept: ConceptPart, path: str | Path) -> Path:
        """Write ``concept`` in this format, atomically.

        Raises:
            ConceptFileError: it has something that this format cannot hold.
        """
        writer = {
            ConceptFormat.ours: native.save,
            ConceptFormat.mixofshow: ed_lora.save,
            ConceptFormat.kohya: kohya.save,
            ConceptFormat.diffusers: diffusers_lora.save,
        }[self]
        return writer(concept, path)


#: Suffix -> the format that is written where none is named.
BY_SUFFIX = {".safetensors": ConceptFormat.ours, ".pth": ConceptFormat.mixofshow}


def with_dtype(concept: ConceptPart, dtype: torch.dtype) -> ConceptPart:
    """Return the same concept in another number type; half precision halves its file."""

    def cast(layers: Mapping[str, Update]) -> dict[str, Update]:
        return {name: update.to(dtype) for name, update in layers.items()}

    return replace(
        concept,
        tokens=tuple({name: vectors.to(dtype) for name, vectors in table.items()} for table in concept.tokens),
        text_encoders=tuple(map(cast, concept.text_encoders)),
        unet=cast(concept.unet),
    )
