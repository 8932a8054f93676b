"""What a concept file holds, and why it was refused if it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from concept_conductor.concepts import Concept, LowRank, container, find_file, format_of
from concept_conductor.concepts.native import FAMILIES
from concept_conductor.errors import ConceptFileError

FAMILY_NAMES = {"sd15": "SD1.5", "sdxl": "SDXL"}


class TokenTable(BaseModel):
    """One placeholder in one text encoder: ``layers`` vectors of ``dim`` numbers."""

    model_config = ConfigDict(frozen=True)

    placeholder: str
    encoder: int
    layers: int
    dim: int


class LayerGroup(BaseModel):
    """Low-rank weights of one sort of layer.

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
        path, size: the file and its bytes.
        kind: the format.
        name, family: the concept's short name; "sd15" or "sdxl".
        tokens: placeholders and their vectors.
        weights: where the low-rank weights go.
        tensors, parameters: how many tensors and numbers the file's concept has; all of them are used.
        dtypes: number types that occur.
        metadata: what the file says of itself.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    size: int | None = None
    kind: str | None = None
    name: str | None = None
    family: str | None = None
    tokens: tuple[TokenTable, ...] = ()
    weights: tuple[LayerGroup, ...] = ()
    tensors: int = 0
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    problem: str | None = None

    def __rich__(self) -> RenderableType:
        facts = Table.grid(padding=(0, 2))
        rows = {
            "file": str(self.path),
            "size": None if self.size is None else f"{self.size / 1e6:.2f} MB",
            "kind": self.kind,
            "concept": self.name,
            "family": self.family and FAMILY_NAMES.get(self.family, self.family),
            "numbers": f"{self.parameters:,} in {self.tensors} tensors, {', '.join(self.dtypes)}"
            if self.tensors
            else None,
            **self.metadata,
        }
        for label, value in rows.items():
            if value:
                facts.add_row(Text(label, style="dim"), Text(value))
        parts: list[RenderableType] = [facts]
        if self.tokens:
            tokens = Table(
                "placeholder", "text encoder", "vectors", "numbers each", title="Tokens", title_justify="left"
            )
            for token in self.tokens:
                tokens.add_row(Text(token.placeholder), str(token.encoder + 1), str(token.layers), str(token.dim))
            parts.append(tokens)
        if self.weights:
            weights = Table("goes to", "layers", "rank", title="Low-rank weights", title_justify="left")
            for group in self.weights:
                weights.add_row(Text(group.goes_to), str(group.layers), ", ".join(map(str, group.ranks)))
            parts.append(weights)
        if self.problem:
            parts.append(Text(f"refused: {self.problem}", style="red"))
        return Group(*parts)


def inspect(source: str | Path) -> ConceptReport:
    """Look into a concept file; never raises for what the file holds, but says it in ``problem``."""
    path = Path(source)
    size = kind = None
    try:
        path = find_file(source)
        file = container.read(path)
        size = file.size
        reader = format_of(file)
        kind = reader.KIND
        concept = reader.read(file)
    except ConceptFileError as error:
        size = path.stat().st_size if path.is_file() else None
        return ConceptReport(path=path, size=size, kind=kind, problem=str(error))
    return _report(concept, path, size, kind)


def _report(concept: Concept, path: Path, size: int, kind: str) -> ConceptReport:
    groups = _groups(concept.unet, "U-Net")
    for encoder, layers in enumerate(concept.text_encoders):
        groups += _groups(layers, f"text encoder {encoder + 1}")
    updates = [update for layers in (*concept.text_encoders, concept.unet) for update in layers.values()]
    tensors = [half for update in updates for half in update]
    tensors += [vectors for table in concept.tokens for vectors in table.values()]
    return ConceptReport(
        path=path,
        size=size,
        kind=kind,
        name=concept.name,
        family=FAMILIES[len(concept.tokens)],
        tokens=tuple(
            TokenTable(placeholder=name, encoder=encoder, layers=vectors.shape[0], dim=vectors.shape[1])
            for encoder, table in enumerate(concept.tokens)
            for name, vectors in table.items()
        ),
        weights=tuple(groups),
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in tensors),
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        metadata=dict(concept.metadata),
    )


def _groups(layers: Mapping[str, LowRank], model: str) -> list[LayerGroup]:
    """Layers grouped by the end of their names, which says what they do."""
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
    """``...attn2.to_out.0`` -> ``attn2.to_out.0``: the name from its last attention on."""
    parts = name.split(".")
    starts = [index for index, part in enumerate(parts) if part.startswith(("attn", "self_attn"))]
    return ".".join(parts[starts[-1] :]) if starts else parts[-1]
