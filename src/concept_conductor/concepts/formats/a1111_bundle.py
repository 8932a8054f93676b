"""Textual inversions inside of a LoRA file, as AUTOMATIC1111 bundles them: ``bundle_emb.NAME.LAYOUT_OF_ITS_OWN``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from concept_conductor.concepts.formats.textual_inversion import STRING_TO_PARAM
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.errors import ConceptFileError

PREFIX = "bundle_emb."


def unbundled(file: WeightFile) -> list[WeightFile]:
    """Return the file without its bundled embeddings, then each of those as if it lay in a file of its name."""
    embeddings: dict[str, dict[str, Any]] = {}
    for key, value in file.content.items():
        if not key.startswith(PREFIX):
            continue
        name, _, inner = key.removeprefix(PREFIX).partition(".")
        if not name or not inner:
            raise ConceptFileError(f"{file.path} has '{key}', which names no embedding; the file is malformed")
        table, _, string = inner.partition(".")
        if table == STRING_TO_PARAM:
            embeddings.setdefault(name, {"name": name}).setdefault(table, {})[string] = value
        else:
            embeddings.setdefault(name, {})[inner] = value
    if not embeddings:
        return [file]
    rest = {key: value for key, value in file.content.items() if not key.startswith(PREFIX)}
    parts = [WeightFile(file.path / f"{name}.emb", file.container, content) for name, content in embeddings.items()]
    return [*([replace(file, content=rest)] if rest else []), *parts]
