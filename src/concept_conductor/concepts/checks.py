"""What every concept must satisfy, whatever file it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from concept_conductor.concepts.concept import LowRank
from concept_conductor.errors import ConceptFileError

MAX_RANK = 1024
MAX_TEXT_LAYERS = 256
MAX_PLACEHOLDERS = 64
MAX_PLACEHOLDER_LENGTH = 100


def matrix(path: Path, name: str, value: object) -> Tensor:
    """``value`` as a finite floating-point matrix.

    Raises:
        ConceptFileError: it is something else.
    """
    if not isinstance(value, Tensor):
        raise ConceptFileError(f"{path} has a {type(value).__name__} as '{name}' where a matrix was expected")
    if not value.is_floating_point() or value.ndim != 2 or 0 in value.shape:
        kind = str(value.dtype).removeprefix("torch.")
        raise ConceptFileError(
            f"{path} has '{name}' of type {kind} and shape {tuple(value.shape)} where a floating-point matrix was "
            "expected"
        )
    if not torch.isfinite(value).all():
        raise ConceptFileError(f"{path} has infinite or undefined numbers in '{name}'; its training has failed")
    return value


def low_rank(path: Path, layer: str, down: object, up: object) -> LowRank:
    """One layer's pair of matrices, ``down (rank, in)`` and ``up (out, rank)``, checked."""
    pair = LowRank(matrix(path, f"{layer} (down)", down), matrix(path, f"{layer} (up)", up))
    if pair.up.shape[1] != pair.rank:
        raise ConceptFileError(
            f"{path} has ranks {pair.rank} (down) and {pair.up.shape[1]} (up) for '{layer}'; they must be equal"
        )
    if pair.rank > MAX_RANK:
        raise ConceptFileError(f"{path} has rank {pair.rank} for '{layer}'; at most {MAX_RANK} is supported")
    return pair


def token_table(path: Path, table: object) -> dict[str, Tensor]:
    """One text encoder's placeholders, each ``(layers, dim)``, checked; all of one shape."""
    if not isinstance(table, Mapping):
        raise ConceptFileError(f"{path} has a {type(table).__name__} where a table of placeholders was expected")
    if not 1 <= len(table) <= MAX_PLACEHOLDERS:
        raise ConceptFileError(f"{path} has {len(table)} placeholders; expected 1 to {MAX_PLACEHOLDERS}")
    checked = {}
    for name, vectors in table.items():
        check_placeholder(path, name)
        checked[name] = matrix(path, name, vectors)
    shapes = {tuple(vectors.shape) for vectors in checked.values()}
    if len(shapes) != 1:
        raise ConceptFileError(f"{path} has embeddings of different shapes: {sorted(shapes)}; all must have one")
    layers, _ = next(iter(shapes))
    if layers > MAX_TEXT_LAYERS:
        raise ConceptFileError(f"{path} has {layers} embeddings per placeholder; at most {MAX_TEXT_LAYERS} make sense")
    return checked


def check_placeholder(path: Path, name: object) -> None:
    """A placeholder must be something that can stand in a prompt."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_PLACEHOLDER_LENGTH:
        raise ConceptFileError(
            f"{path} has the placeholder {str(name)[:40]!r}; "
            f"expected 1 to {MAX_PLACEHOLDER_LENGTH} printable characters"
        )


def same_placeholders(path: Path, tables: tuple[Mapping[str, Tensor], ...]) -> None:
    """Every text encoder must know the same placeholders."""
    for table in tables[1:]:
        if set(table) != set(tables[0]):
            raise ConceptFileError(
                f"{path} has the placeholders {sorted(tables[0])} for the first text encoder but {sorted(table)} "
                "for the second; they must be the same"
            )
