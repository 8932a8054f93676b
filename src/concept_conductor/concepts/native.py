"""Our own concept files: safetensors with the same tensors and a header that says where they come from.

Tensors: ``tokens.E.PLACEHOLDER (layers, dim)``, ``text_encoder.E.LAYER.down|up`` and ``unet.LAYER.down|up`` with E
counting the text encoders. Header: format, version, name, family and placeholders (in order, as JSON); and what the
trainer knows: initialiser, training settings, hash of the base model, author, licence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from concept_conductor.concepts import checks
from concept_conductor.concepts.concept import Concept, LowRank
from concept_conductor.concepts.container import WeightFile, parsed_json
from concept_conductor.errors import ConceptFileError
from concept_conductor.files import written_whole

KIND = "Concept Conductor (safetensors)"

FORMAT = "concept-conductor"
VERSION = 1
FAMILIES = {1: "sd15", 2: "sdxl"}  # by the number of text encoders

_RESERVED = ("format", "format_version", "name", "family", "placeholders")


def recognises(file: WeightFile) -> bool:
    """Whether the file's header says that it is one of ours."""
    return file.metadata.get("format") == FORMAT


def read(file: WeightFile) -> Concept:
    """The concept in one of our own files.

    Raises:
        ConceptFileError: a newer version, or tensors that do not belong.
    """
    path, header = file.path, file.metadata
    version = header.get("format_version", "")
    if version != str(VERSION):
        raise ConceptFileError(
            f"{path} is a concept file of version {version!r} but this program reads version {VERSION}; update it"
        )
    placeholders = parsed_json(path, "placeholders", header.get("placeholders", ""))
    if not isinstance(placeholders, list) or not all(isinstance(name, str) for name in placeholders):
        raise ConceptFileError(f"{path} has damaged metadata: 'placeholders' is no list of names")

    left = dict(file.content)
    encoders = len({key.split(".")[1] for key in left if key.startswith("tokens.")})
    if encoders not in FAMILIES:
        raise ConceptFileError(f"{path} has token embeddings for {encoders} text encoders; expected 1 or 2")
    tokens = tuple(
        checks.token_table(path, {name: left.pop(f"tokens.{encoder}.{name}", None) for name in placeholders})
        for encoder in range(encoders)
    )
    concept = Concept(
        name=header.get("name", path.stem),
        tokens=tokens,
        text_encoders=tuple(_pairs(path, left, f"text_encoder.{encoder}.") for encoder in range(encoders)),
        unet=_pairs(path, left, "unet."),
        metadata={key: value for key, value in header.items() if key not in _RESERVED},
    )
    if left:
        raise ConceptFileError(f"{path} has '{min(left)}' and {len(left) - 1} more tensors that belong to nothing")
    return concept


def save(concept: Concept, path: str | Path) -> Path:
    """Write our own format; the file appears whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for encoder, table in enumerate(concept.tokens):
        tensors |= {f"tokens.{encoder}.{name}": vectors for name, vectors in table.items()}
    for encoder, layers in enumerate(concept.text_encoders):
        tensors |= _keys(layers, f"text_encoder.{encoder}.")
    tensors |= _keys(concept.unet, "unet.")
    header = {
        **concept.metadata,
        "format": FORMAT,
        "format_version": str(VERSION),
        "name": concept.name,
        "family": FAMILIES[len(concept.tokens)],
        "placeholders": json.dumps(concept.placeholders),
    }
    plain = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
    with written_whole(path) as file:
        file.write(safetensors_bytes(plain, metadata=header))
    return Path(path)


def _pairs(path: Path, left: dict[str, Tensor], prefix: str) -> dict[str, LowRank]:
    """Take all pairs under ``prefix`` out of ``left``."""
    layers = dict.fromkeys(key.removeprefix(prefix).rpartition(".")[0] for key in left if key.startswith(prefix))
    pairs = {}
    for layer in layers:
        down, up = (left.pop(f"{prefix}{layer}.{half}", None) for half in ("down", "up"))
        if down is None or up is None:
            raise ConceptFileError(f"{path} has only one half of the low-rank pair of '{prefix}{layer}'")
        pairs[layer] = checks.low_rank(path, layer, down, up)
    return pairs


def _keys(layers: Mapping[str, LowRank], prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}{layer}.{half}": getattr(update, half) for layer, update in layers.items() for half in LowRank._fields
    }
