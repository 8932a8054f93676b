"""Files of concepts: to write, to compare, and to see refused."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import ConceptFileError


def same(a: Concept, b: Concept) -> bool:
    """Whether two concepts have the same tensors under the same names in the same order of placeholders."""

    def flat(one: Concept) -> list[tuple[str, torch.Tensor]]:
        parts = [(f"{e} {name}", v) for e, table in enumerate(one.tokens) for name, v in table.items()]
        for where, layers in enumerate((*one.text_encoders, one.unet)):
            for name in sorted(layers):
                parts += [(f"{where} {name} {half}", tensor) for half, tensor in layers[name]._asdict().items()]
        return parts

    ours, theirs = flat(a), flat(b)
    return [name for name, _ in ours] == [name for name, _ in theirs] and all(
        torch.equal(x, y) and x.dtype == y.dtype for (_, x), (_, y) in zip(ours, theirs, strict=True)
    )


class Shadowed(dict[Any, Any]):
    """Is unpickled as a table whose own attributes hide its methods."""

    def __reduce__(self) -> tuple[Any, ...]:
        return OrderedDict, (), {"items": 3, "keys": 3, "values": 3}, None, iter(dict.items(self))


def refused(path: Path, *words: str) -> None:
    """The file is refused in one sentence that names it and holds all ``words``."""
    with pytest.raises(ConceptFileError) as error:
        Concept.load(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(word in message for word in words), message


def pair(layer: str, down: str = ".lora_down.weight", up: str = ".lora_up.weight") -> dict[str, Tensor]:
    return {layer + down: torch.ones(2, 8), layer + up: torch.ones(8, 2)}
