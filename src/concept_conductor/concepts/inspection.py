"""What a concept file holds, and why it was refused if it was."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_serializer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from concept_conductor.concepts import families
from concept_conductor.concepts.data import ConceptPart, Update
from concept_conductor.concepts.loader import format_of, read_files, read_part
from concept_conductor.concepts.merge import merge
from concept_conductor.concepts.sources import find_files
from concept_conductor.errors import ConductorError
from concept_conductor.io.printable import one_line

#: Parts of a model by which its layers are told; what comes before them only numbers blocks.
KINDS_OF_LAYERS = ("attn", "self_attn", "mlp", "ff", "time_embedding", "add_embedding")


class TokenTable(BaseModel):
    """One placeholder in one text encoder: ``layers`` vectors of ``dim`` numbers for each of its ``positions``."""

    model_config = ConfigDict(frozen=True)

    placeholder: str
    encoder: int
    positions: int
    layers: int
    dim: int


class LayerGroup(BaseModel):
    """Weights of one sort of layer.

    Attributes:
        goes_to: where the weights go, e.g. "U-Net attn2.to_k".
        layers: how many layers of that sort.
        ranks: the ranks that occur.
    """

    model_config = ConfigDict(frozen=True)

    goes_to: str
    layers: int
    ranks: tuple[int, ...]


class ConceptReport(BaseModel):
    """What a file holds; ``problem`` says in one sentence why it cannot be used, or is None.

    Attributes:
        path, size: the file or folder, and the bytes read of it.
        kind: the format, or the formats of a folder's files.
        name, family: the concept's short name; "sd15", "sd21", "sdxl" or None where nothing tells.
        phrase: what to write in a prompt: placeholders, or the trigger words that the file names.
        tokens: placeholders and their vectors.
        weights: where the weights go.
        tensors, parameters: how many tensors and numbers the concept has; all of them are used.
        dtypes: number types that occur.
        metadata: what the file says of itself.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    size: int | None = None
    kind: str | None = None
    name: str | None = None
    family: str | None = None
    phrase: str | None = None
    tokens: tuple[TokenTable, ...] = ()
    weights: tuple[LayerGroup, ...] = ()
    tensors: int = 0
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    problem: str | None = None

    @field_serializer("path")
    def _path(self, path: Path) -> str:
        return _whole(str(path))

    def __rich__(self) -> RenderableType:
        facts = Table.grid(padding=(0, 2))
        rows = {
            "file": str(self.path),
            "size": None if self.size is None else f"{self.size / 1e6:.2f} MB",
            "kind": self.kind,
            "concept": self.name,
            "family": self.family and families.NAMES[self.family],
            "in prompts": self.phrase,
            "numbers": f"{self.parameters:,} in {self.tensors} tensors, {', '.join(self.dtypes)}"
            if self.tensors
            else None,
            **self.metadata,
        }
        for label, value in rows.items():
            if value:
                facts.add_row(_text(label, style="dim"), _text(value))
        parts: list[RenderableType] = [facts]
        if self.tokens:
            columns = ("placeholder", "text encoder", "positions", "vectors each", "numbers each")
            tokens = Table(*columns, title="Tokens", title_justify="left")
            for token in self.tokens:
                sizes = (token.encoder + 1, token.positions, token.layers, token.dim)
                tokens.add_row(_text(token.placeholder), *map(str, sizes))
            parts.append(tokens)
        if self.weights:
            weights = Table("goes to", "layers", "rank", title="Weights", title_justify="left")
            for group in self.weights:
                weights.add_row(_text(group.goes_to), str(group.layers), ", ".join(map(str, group.ranks)))
            parts.append(weights)
        if self.problem:
            parts.append(_text(f"refused: {self.problem}", style="red"))
        return Group(*parts)


def inspect(source: str | Path, revision: str | None = None) -> ConceptReport:
    """Return what a concept file or folder holds; what is wrong with it stands in ``problem`` and is not raised."""
    paths = [Path(source)]
    kinds: list[str] = []
    try:
        paths = find_files(source, revision)
        files = read_files(paths)
        kinds = sorted({format_of(file).KIND for file in files})
        concept = merge([read_part(file) for file in files])
        found = {"family": families.family_of(concept), **_contents(concept)}
    except ConductorError as error:
        found = {"problem": _whole(str(error))}
    return ConceptReport(
        path=paths[0] if len(paths) == 1 else Path(source),
        size=sum(path.stat().st_size for path in paths if os.path.isfile(path)) or None,
        kind=" + ".join(kinds) or None,
        **found,
    )


def _text(text: str, style: str = "") -> Text:
    """Return a stranger's words, whose control characters are shown instead of obeyed."""
    return Text(one_line(text), style=style)


def _whole(text: str) -> str:
    """Return text that holds half characters, as names of files may, in a form that JSON has."""
    return text.encode("utf-8", "backslashreplace").decode()


def _contents(concept: ConceptPart) -> dict[str, Any]:
    """Return what a report says of a concept that could be read."""
    groups = _groups(concept.unet, "U-Net")
    for encoder, layers in enumerate(concept.text_encoders):
        groups += _groups(layers, f"text encoder {encoder + 1}")
    updates = [update for layers in (*concept.text_encoders, concept.unet) for update in layers.values()]
    tensors = [part for update in updates for part in update if isinstance(part, Tensor)]
    tensors += [vectors for table in concept.tokens for vectors in table.values()]
    return {
        "name": concept.name,
        "phrase": concept.phrase,
        "tokens": tuple(
            TokenTable(
                placeholder=name,
                encoder=encoder,
                positions=concept.positions[name],
                layers=vectors.shape[-2],
                dim=vectors.shape[-1],
            )
            for encoder, table in enumerate(concept.tokens)
            for name, vectors in table.items()
        ),
        "weights": tuple(groups),
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors),
        "dtypes": tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        "metadata": dict(concept.metadata),
    }


def _groups(layers: Mapping[str, Update], model: str) -> list[LayerGroup]:
    """Group layers by the end of their names, which says what they do."""
    sorts = {name: _sort(name) for name in layers}
    return [
        LayerGroup(
            goes_to=f"{model} {sort}",
            layers=count,
            ranks=tuple(sorted({update.rank for name, update in layers.items() if sorts[name] == sort})),
        )
        for sort, count in sorted(Counter(sorts.values()).items())
    ]


def _sort(name: str) -> str:
    """Return a layer's name without what only says where it stands: ``...attn2.to_out.0`` -> ``attn2.to_out.0``."""
    parts = name.split(".")
    starts = [index for index, part in enumerate(parts) if part.startswith(KINDS_OF_LAYERS)]
    return ".".join(parts[starts[-1] :]) if starts else parts[-1]
