"""Our own concept files: safetensors with the same tensors and a header that says where they come from.

Tensors: ``tokens.E.PLACEHOLDER (layers, dim)`` or ``(positions, layers, dim)``, and for every layer
``text_encoder.E.LAYER.down|up`` and ``unet.LAYER.down|up``, or ``.weight`` for a whole weight; E counts the text
encoders. Header: format, version, name, family, number of text encoders and placeholders (in order, as JSON); and what
the trainer knows: initialiser, training settings, hash of the base model, author, licence. Version 1 always had tokens,
from which its text encoders are counted, and matrices only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from concept_conductor.concepts.data import ConceptPart, FullWeight, Update
from concept_conductor.concepts.families import family_of
from concept_conductor.concepts.formats import validation
from concept_conductor.concepts.formats.safetensors_writer import write_safetensors
from concept_conductor.concepts.formats.weight_file import WeightFile, parsed_json
from concept_conductor.errors import ConceptFileError

KIND = "Concept Conductor (safetensors)"

FORMAT = "concept-conductor"
VERSION = 2
READABLE = ("1", "2")
MAX_TEXT_ENCODERS = 2

_RESERVED = ("format", "format_version", "name", "family", "text_encoders", "placeholders")


def recognises(file: WeightFile) -> bool:
    """Return whether the file's header says that it is one of ours."""
    return file.metadata.get("format") == FORMAT


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in one of our own files.

    Raises:
        ConceptFileError: a newer version, or tensors that do not belong.
    """
    path, header = file.path, file.metadata
    version = header.get("format_version", "")
    if version not in READABLE:
        raise ConceptFileError(
            f"{path} is a concept file of version {version!r:.20} but this program reads versions up to {VERSION}; "
            "update it"
        )
    placeholders = parsed_json(path, "placeholders", header.get("placeholders", ""))
    if not isinstance(placeholders, list) or not all(isinstance(name, str) for name in placeholders):
        raise ConceptFileError(f"{path} has damaged metadata: 'placeholders' is no list of names")
    if len(set(placeholders)) != len(placeholders):
        raise ConceptFileError(
            f"{path} has damaged metadata: 'placeholders' has a name twice, which cannot mean two things"
        )

    left = dict(file.content)
    encoders = header.get("text_encoders") or str(len({key.split(".")[1] for key in left if key.startswith("tokens.")}))
    if encoders not in map(str, range(1, MAX_TEXT_ENCODERS + 1)):
        raise ConceptFileError(f"{path} is made for {encoders[:9]} text encoders; expected 1 or 2")
    tokens: tuple[dict[str, Tensor], ...] = tuple(
        validation.token_table(path, {name: left.pop(f"tokens.{encoder}.{name}", None) for name in placeholders})
        if placeholders
        else {}
        for encoder in range(int(encoders))
    )
    concept = ConceptPart(
        name=header.get("name", file.name),
        tokens=tokens,
        text_encoders=tuple(_updates(path, left, f"text_encoder.{encoder}.") for encoder in range(int(encoders))),
        unet=_updates(path, left, "unet."),
        metadata={key: value for key, value in header.items() if key not in _RESERVED},
    )
    if left:
        raise ConceptFileError(f"{path} has '{min(left)}' and {len(left) - 1} more tensors that belong to nothing")
    return concept


def save(concept: ConceptPart, path: str | Path) -> Path:
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
        "family": family_of(concept) or "unknown",
        "text_encoders": str(len(concept.tokens)),
        "placeholders": json.dumps(concept.placeholders),
    }
    return write_safetensors(path, tensors, header)


def _updates(path: Path, left: dict[str, Tensor], prefix: str) -> dict[str, Update]:
    """Take all updates under ``prefix`` out of ``left``."""
    layers = dict.fromkeys(key.removeprefix(prefix).rpartition(".")[0] for key in left if key.startswith(prefix))
    updates: dict[str, Update] = {}
    for layer in layers:
        down, up, weight = (left.pop(f"{prefix}{layer}.{part}", None) for part in ("down", "up", "weight"))
        if weight is not None and down is None and up is None:
            updates[layer] = FullWeight(validation.matrix(path, layer, weight))
        elif down is None or up is None or weight is not None:
            raise ConceptFileError(f"{path} has only one half of the low-rank pair of '{prefix}{layer}'")
        else:
            updates[layer] = validation.low_rank(path, layer, down, up)
    return updates


def _keys(layers: Mapping[str, Update], prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}{layer}.{part}": tensor
        for layer, update in layers.items()
        for part, tensor in update._asdict().items()
        if isinstance(tensor, Tensor)
    }
