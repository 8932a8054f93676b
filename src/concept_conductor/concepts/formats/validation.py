"""What every concept must satisfy, whatever file it came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from concept_conductor.concepts.data import LowRank
from concept_conductor.errors import ConceptFileError
from concept_conductor.settings import MAX_RANK

MAX_TEXT_LAYERS = 256
MAX_PLACEHOLDERS = 64
MAX_POSITIONS = 75  # what CLIP reads between start and end
MAX_PLACEHOLDER_LENGTH = 100


def numbers(path: Path, name: str, value: object, dimensions: tuple[int, ...], expected: str) -> Tensor:
    """Return ``value`` as a finite floating-point tensor of one of the given numbers of dimensions.

    Raises:
        ConceptFileError: it is something else; ``expected`` says what should have been there.
    """
    if not isinstance(value, Tensor):
        raise ConceptFileError(f"{path} has a {type(value).__name__} as '{name}' where {expected} was expected")
    if not value.is_floating_point() or value.ndim not in dimensions or 0 in value.shape:
        kind = str(value.dtype).removeprefix("torch.")
        raise ConceptFileError(
            f"{path} has '{name}' of type {kind} and shape {tuple(value.shape)} where {expected} was expected"
        )
    return finite(path, name, value)


def finite(path: Path, name: str, value: Tensor) -> Tensor:
    """Return ``value``, all of whose numbers must be finite."""
    if not torch.isfinite(value).all():
        raise ConceptFileError(f"{path} has infinite or undefined numbers in '{name}'; its training has failed")
    return value


def scalar(path: Path, name: str, value: object) -> float:
    """Return one finite number: a tensor of any number type, or a plain number."""
    one = value.numel() == 1 and not value.is_complex() if isinstance(value, Tensor) else isinstance(value, int | float)
    try:
        number = float(value) if one else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ConceptFileError(f"{path} has '{name}' of {what} where one finite number was expected")
    return number


def matrix(path: Path, name: str, value: object) -> Tensor:
    """Return ``value`` as a finite floating-point matrix."""
    return numbers(path, name, value, (2,), "a floating-point matrix")


def low_rank(path: Path, layer: str, down: object, up: object) -> LowRank:
    """Check one layer's pair, and return it.

    Args:
        down: ``(rank, in)``, or a convolution's ``(rank, in, kernel height, kernel width)``.
        up: ``(out, rank)``, or ``(out, rank, 1, 1)``.
    """
    expected = "a floating-point matrix or convolution"
    down = numbers(path, f"{layer} (down)", down, (2, 4), expected)
    up = numbers(path, f"{layer} (up)", up, (2, 4), expected)
    if up.shape[2:] not in ((), (1, 1)):
        raise ConceptFileError(
            f"{path} has a kernel of {up.shape[2]}x{up.shape[3]} in the upper half of '{layer}'; only 1x1 is low rank"
        )
    pair = LowRank(down, up.flatten(1))
    if pair.up.shape[1] != pair.rank:
        raise ConceptFileError(
            f"{path} has ranks {pair.rank} (down) and {pair.up.shape[1]} (up) for '{layer}'; they must be equal"
        )
    if pair.rank > MAX_RANK:
        raise ConceptFileError(f"{path} has rank {pair.rank} for '{layer}'; at most {MAX_RANK} is supported")
    return pair


def token_table(path: Path, table: object) -> dict[str, Tensor]:
    """Check one text encoder's placeholders: each ``(layers, dim)`` or ``(positions, layers, dim)``."""
    if not isinstance(table, Mapping):
        raise ConceptFileError(f"{path} has a {type(table).__name__} where a table of placeholders was expected")
    if not 1 <= len(table) <= MAX_PLACEHOLDERS:
        raise ConceptFileError(f"{path} has {len(table)} placeholders; expected 1 to {MAX_PLACEHOLDERS}")
    checked = {}
    for name, vectors in table.items():
        check_placeholder(path, name)
        checked[name] = numbers(path, name, vectors, (2, 3), "a floating-point matrix")
        if vectors.ndim == 3 and len(vectors) > MAX_POSITIONS:
            raise ConceptFileError(
                f"{path} has {len(vectors)} vectors for {name}; a text has only {MAX_POSITIONS} positions"
            )
    shapes = {tuple(vectors.shape[-2:]) for vectors in checked.values()}
    if len(shapes) != 1:
        raise ConceptFileError(f"{path} has embeddings of different shapes: {sorted(shapes)}; all must have one")
    layers, _ = next(iter(shapes))
    if layers > MAX_TEXT_LAYERS:
        raise ConceptFileError(f"{path} has {layers} embeddings per placeholder; at most {MAX_TEXT_LAYERS} make sense")
    return checked


def check_placeholder(path: Path, name: object) -> None:
    """Refuse a placeholder that cannot stand in a prompt."""
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > MAX_PLACEHOLDER_LENGTH:
        raise ConceptFileError(
            f"{path} has the placeholder {str(name)[:40]!r}; "
            f"expected 1 to {MAX_PLACEHOLDER_LENGTH} printable characters"
        )


def same_placeholders(path: Path | str, tables: tuple[Mapping[str, Tensor], ...]) -> None:
    """Refuse text encoders that know different placeholders, or one with different numbers of positions."""
    for table in tables[1:]:
        if set(table) != set(tables[0]):
            raise ConceptFileError(
                f"{path} has the placeholders {sorted(tables[0])} for the first text encoder but {sorted(table)} "
                "for the second; they must be the same"
            )
        for name, vectors in table.items():
            if vectors.ndim != tables[0][name].ndim or (vectors.ndim == 3 and len(vectors) != len(tables[0][name])):
                raise ConceptFileError(
                    f"{path} has embeddings of shape {tuple(tables[0][name].shape)} and {tuple(vectors.shape)} for the "
                    f"two text encoders' {name}; they must take as many positions"
                )
