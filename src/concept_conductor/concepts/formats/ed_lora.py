"""ED-LoRA as Mix-of-Show and the published Concept Conductor write it: a ``.pth`` of nested tables.

``{"params": {"new_concept_embedding": {"<chow_dog_1>": [16, 768], ...}, "text_encoder": {...}, "unet": {...}}}``,
the wrapper being optional; SDXL adds ``new_concept_embedding_2`` and ``text_encoder_2``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concept_conductor.concepts.data import ConceptPart, LowRank, Update
from concept_conductor.concepts.formats import validation
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.errors import ConceptFileError
from concept_conductor.io.files import atomic_write

KIND = "ED-LoRA (Mix-of-Show .pth)"

WRAPPER = "params"
TOKENS = ("new_concept_embedding", "new_concept_embedding_2")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
UNET = "unet"
DOWN, UP = ".lora_down.weight", ".lora_up.weight"
TEXT_PREFIX = "text_model."


def recognises(file: WeightFile) -> bool:
    """Return whether the file has an ED-LoRA's tables."""
    return TOKENS[0] in _tables(file)


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in a published file.

    Raises:
        ConceptFileError: anything in the file is not what the layout above says.
    """
    path, tables = file.path, _tables(file)
    unknown = set(tables) - {*TOKENS, *TEXT_ENCODERS, UNET}
    if unknown:
        raise ConceptFileError(
            f"{path} has the unknown tables {sorted(unknown)}; an ED-LoRA has only {[*TOKENS, *TEXT_ENCODERS, UNET]}"
        )
    tokens = tuple(validation.token_table(path, tables[name]) for name in TOKENS if name in tables)
    validation.same_placeholders(path, tokens)
    encoders = TEXT_ENCODERS[: len(tokens)]
    for name in set(TEXT_ENCODERS) & set(tables) - set(encoders):
        raise ConceptFileError(f"{path} has weights for '{name}' but no token embeddings for it ('{TOKENS[1]}')")
    return ConceptPart(
        name=file.name,
        tokens=tokens,
        text_encoders=tuple(
            {
                layer.removeprefix(TEXT_PREFIX): update
                for layer, update in _pairs(path, name, tables.get(name, {})).items()
            }
            for name in encoders
        ),
        unet=_pairs(path, UNET, tables.get(UNET, {})),
    )


def save(concept: ConceptPart, path: str | Path) -> Path:
    """Write the published layout, which Mix-of-Show and the published Concept Conductor can load.

    Raises:
        ConceptFileError: the concept has no placeholders, or more than that layout can hold.
    """
    if not concept.placeholders or any(count > 1 for count in concept.positions.values()):
        raise ConceptFileError(
            f"a Mix-of-Show file needs placeholders of one position each, but the concept '{concept.name}' has "
            f"{' '.join(f'{name} ({count})' for name, count in concept.positions.items()) or 'none'}; convert to 'ours'"
        )
    tables: dict[str, dict[str, Tensor]] = {}
    for name, tokens in zip(TOKENS, concept.tokens, strict=False):
        tables[name] = {placeholder: _plain(vectors) for placeholder, vectors in tokens.items()}
    for name, layers in zip(TEXT_ENCODERS, concept.text_encoders, strict=False):
        tables[name] = _keys(concept, layers, TEXT_PREFIX)
    tables[UNET] = _keys(concept, concept.unet, "")
    with atomic_write(path) as file:
        torch.save({WRAPPER: tables}, file)
    return Path(path)


def _tables(file: WeightFile) -> Mapping[str, Any]:
    """Return the tables, taken out of their wrapper."""
    inner = file.content.get(WRAPPER)
    return inner if set(file.content) == {WRAPPER} and isinstance(inner, Mapping) else file.content


def _pairs(path: Path, table: str, tensors: object) -> dict[str, Update]:
    """Return layer name -> update; every key must be half of a pair."""
    if not isinstance(tensors, Mapping):
        raise ConceptFileError(
            f"{path} has a {type(tensors).__name__} as '{table}' where a table of weights was expected"
        )
    layers: dict[str, None] = {}  # in the file's order
    for key in tensors:
        layer = key.removesuffix(DOWN).removesuffix(UP)
        if layer == key:
            raise ConceptFileError(f"{path} has '{key}' in '{table}', which is no '*{DOWN}' or '*{UP}' of an ED-LoRA")
        layers[layer] = None
    for layer in layers:
        for half, other in ((DOWN, UP), (UP, DOWN)):
            if layer + half not in tensors:
                raise ConceptFileError(f"{path} has '{layer}{other}' in '{table}' but not its partner '{layer}{half}'")
    return {layer: validation.low_rank(path, layer, tensors[layer + DOWN], tensors[layer + UP]) for layer in layers}


def _keys(concept: ConceptPart, layers: Mapping[str, Update], prefix: str) -> dict[str, Tensor]:
    tensors = {}
    for layer, update in sorted(layers.items()):
        if not isinstance(update, LowRank) or update.down.ndim != 2:
            raise ConceptFileError(
                f"a Mix-of-Show file holds low-rank weights of linear layers only, but the concept '{concept.name}' "
                f"has others for '{layer}'; convert it to 'ours'"
            )
        tensors[f"{prefix}{layer}{DOWN}"] = _plain(update.down)
        tensors[f"{prefix}{layer}{UP}"] = _plain(update.up)
    return tensors


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().clone()
