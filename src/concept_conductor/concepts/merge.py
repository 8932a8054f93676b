"""One concept out of several files: a LoRA and its textual inversion, an adapter for each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from concept_conductor.concepts import families
from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import validation
from concept_conductor.errors import ConceptFileError

Value = TypeVar("Value")


def merge(parts: Sequence[ConceptPart]) -> ConceptPart:
    """Return all parts as one concept of the first one's name, with tables for every text encoder of its family.

    Raises:
        ConceptFileError: two parts mean different things by one placeholder, or change the same layer.
        FamilyError: they are made for different families.
    """
    name = parts[0].name
    whole = replace(
        parts[0],
        tokens=_by_encoder([part.tokens for part in parts], "different vectors for the placeholder"),
        text_encoders=_by_encoder([part.text_encoders for part in parts], "weights for the text encoder's layer"),
        unet=_union((part.unet for part in parts), "weights for the U-Net's layer"),
        metadata={key: value for part in reversed(parts) for key, value in part.metadata.items()},
    )
    if any(whole.tokens):
        validation.same_placeholders(name, whole.tokens)
    if families.family_of(whole) != "sdxl":
        return whole
    return replace(whole, tokens=_two(whole.tokens), text_encoders=_two(whole.text_encoders))


def _two(tables: Sequence[Mapping[str, Value]]) -> tuple[Mapping[str, Value], ...]:
    return (*tables, *({},) * (2 - len(tables)))


def _by_encoder(parts: Sequence[Sequence[Mapping[str, Value]]], what: str) -> tuple[dict[str, Value], ...]:
    """Return, for each text encoder, the union of the parts' tables."""
    encoders = max(len(tables) for tables in parts)
    return tuple(_union((tables[index] for tables in parts if index < len(tables)), what) for index in range(encoders))


def _union(tables: Iterable[Mapping[str, Value]], what: str) -> dict[str, Value]:
    union: dict[str, Value] = {}
    for table in tables:
        for name, value in table.items():
            if name in union and not _same(union[name], value):
                raise ConceptFileError(
                    f"two of the files have {what} '{name}'; give one of them, or use them as two concepts"
                )
            union[name] = value
    return union


def _same(one: object, other: object) -> bool:
    """Return whether the same vectors come twice, which does no harm."""
    return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
