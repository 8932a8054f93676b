"""Which family of models a concept is made for, told by its shapes and by the names of its layers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from concept_conductor.concepts.data import ConceptPart, LowRank, Update
from concept_conductor.errors import FamilyError

#: Family -> what people call it.
NAMES = {"sd15": "SD1.5", "sd21": "SD2.1", "sdxl": "SDXL"}

#: Width of the text that cross-attention reads -> family.
CROSS_ATTENTION = {768: {"sd15"}, 1024: {"sd21"}, 2048: {"sdxl"}}
#: Width of the first text encoder -> families; 1280 is SDXL's second.
TEXT_ENCODER = {768: {"sd15", "sdxl"}, 1024: {"sd21"}, 1280: {"sdxl"}}

READS_TEXT = re.compile(r"\.attn2\.to_[kv]$")


def family_of(concept: ConceptPart) -> str | None:
    """Return ``sd15``, ``sd21``, ``sdxl``, or None where nothing in the concept tells.

    Raises:
        FamilyError: its parts are made for different families.
    """
    possible, told_by = set(NAMES), "nothing"
    for families, part in _evidence(concept):
        if not possible & families:
            raise FamilyError(
                f"the concept '{concept.name}' mixes families: {told_by} is {_spoken(possible)}'s but {part} is "
                f"{_spoken(families)}'s; give parts that were trained on one family of models"
            )
        if possible - families:
            possible, told_by = possible & families, part
    return next(iter(possible)) if len(possible) == 1 else None


def check(concept: ConceptPart, text_width: int, encoders: int) -> None:
    """Refuse a concept that is made for another family than the model.

    Args:
        concept: any.
        text_width: of the model's cross-attention (768, 1024 or 2048).
        encoders: how many text encoders the model has.

    Raises:
        FamilyError: it does not fit, or mixes families itself.
    """
    family = family_of(concept)
    made_for = NAMES.get(family or "", "another family")
    count = max(len(concept.tokens), len(concept.text_encoders))
    if (family is not None or count > encoders) and count != encoders:
        raise FamilyError(
            f"the concept '{concept.name}' is made for models with {_counted(count)} ({made_for}), but this model has "
            f"{_counted(encoders)}; use a concept and a checkpoint of one family"
        )
    width = cross_attention_width(concept)
    if width is not None and width != text_width:
        raise FamilyError(
            f"the concept '{concept.name}' is made for {made_for}, whose cross-attention reads texts of width {width}, "
            f"but this model's reads {text_width}; use a concept and a checkpoint of one family"
        )


def cross_attention_width(concept: ConceptPart) -> int | None:
    """Return the width of the text that the concept's cross-attention layers read, where it has any."""
    return next((input_width(update) for name, update in concept.unet.items() if READS_TEXT.search(name)), None)


def input_width(update: Update) -> int:
    """Return how many numbers the layer takes in."""
    return update.down.shape[1] if isinstance(update, LowRank) else update.weight.shape[1]


def _evidence(concept: ConceptPart) -> Iterator[tuple[set[str], str]]:
    """Yield, for every part of the concept that tells, the families it fits and the part's name."""
    if len(concept.tokens) > 1 or len(concept.text_encoders) > 1:
        yield {"sdxl"}, "its second text encoder"
    for name, update in concept.unet.items():
        if READS_TEXT.search(name) and input_width(update) in CROSS_ATTENTION:
            yield CROSS_ATTENTION[input_width(update)], f"'{name}' of width {input_width(update)}"
        elif re.search(r"\.transformer_blocks\.[1-9]", name) or name.startswith("add_embedding."):
            yield {"sdxl"}, f"'{name}'"
    for name, update in concept.text_encoders[0].items():
        if name.endswith("q_proj") and input_width(update) in TEXT_ENCODER:
            yield TEXT_ENCODER[input_width(update)], f"'{name}' of width {input_width(update)}"
    if len(concept.tokens) == 1:
        for name, vectors in concept.tokens[0].items():
            known = {1024: "sd21"}.get(vectors.shape[-1], "sd15")
            yield {known}, f"the placeholder {name} with one vector of {vectors.shape[-1]} numbers"


def _spoken(families: set[str]) -> str:
    return " or ".join(NAMES[family] for family in sorted(families))


def _counted(encoders: int) -> str:
    return "one text encoder" if encoders == 1 else f"{encoders} text encoders"
