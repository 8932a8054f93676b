"""Checkpoints: written whole or not at all, read only by the training that wrote them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from concept_conductor.errors import ConductorError
from concept_conductor.io.files import atomic_write

VERSION = 1


def write(path: Path, state: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """Write ``state``, marked with what it belongs to."""
    with atomic_write(path) as file:
        torch.save({"version": VERSION, "identity": dict(identity), **state}, file)


def read(path: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    """Read the state in ``path``.

    Raises:
        ConductorError: it is damaged, or of a training with other settings, images or model; the sentence says which.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["identity"]
        version = state["version"]
    except Exception as error:  # torch raises many kinds for damaged archives
        raise ConductorError(f"the checkpoint {path} is damaged; start anew with --no-resume") from error
    if version != VERSION:
        raise ConductorError(
            f"the checkpoint {path} is of another version of this program; start anew with --no-resume"
        )
    changed = [key for key in {**saved, **identity} if saved.get(key) != identity.get(key)]
    if changed:
        key = changed[0]
        raise ConductorError(
            f"the checkpoint {path} belongs to another training: {', '.join(changed)} differ "
            f"('{key}' was {_short(saved.get(key))} and is {_short(identity.get(key))}); "
            "set them back, or start anew with --no-resume"
        )
    loaded: dict[str, Any] = state
    return loaded


def _short(value: str | None) -> str:
    return "nothing" if value is None else value if len(value) <= 40 else f"{value[:37]}..."
