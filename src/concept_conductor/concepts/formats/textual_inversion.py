"""Textual inversions: vectors that stand where a word would, one or several for a placeholder.

diffusers: ``{"<mug>": (dim,) or (positions, dim)}``. AUTOMATIC1111: ``{"string_to_param": {"*": (positions, dim)},
"name": ...}``; the first trainer likewise, with the placeholder's own name for ``*``. SDXL, in both: ``{"clip_l":
(positions, 768), "clip_g": (positions, 1280)}``; and diffusers' other way for SDXL, two files of the first kind, whose
joining makes one concept. A file that names no placeholder lends its own name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import metadata, validation
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.errors import ConceptFileError

KIND = "textual inversion"

STRING_TO_PARAM, UNNAMED = "string_to_param", "*"
PAIR = ("clip_l", "clip_g")
SINGLE = "emb_params"
SECOND_WIDTH, SECOND_FILE = 1280, "learned_embeds_2"
MAX_STEP = 1 << 63
#: What AUTOMATIC1111 keeps beside the vectors.
NOTES = ("string_to_token", "name", "step", "sd_checkpoint", "sd_checkpoint_name")


def recognises(file: WeightFile) -> bool:
    """Return whether it has the names of one of the layouts, or nothing but vectors under names like ``<mug>``."""
    content = file.content
    if STRING_TO_PARAM in content or set(content) <= {*PAIR, SINGLE}:
        return bool(content)
    bare = all(isinstance(value, Tensor) and value.ndim <= 2 for value in content.values())
    return bare and (len(content) == 1 or all(key.startswith("<") and key.endswith(">") for key in content))


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in a textual inversion.

    Raises:
        ConceptFileError: something beside vectors, or vectors that do not fit together.
    """
    content, own_name = file.content, file.path.stem
    tables: tuple[dict[str, Any], ...]
    if STRING_TO_PARAM in content:
        tables = (_automatic1111(file),)
    elif set(content) <= {*PAIR, SINGLE}:
        tables = tuple({own_name: content[key]} for key in (SINGLE, *PAIR) if key in content)
    else:
        tables = (dict(content),)
    checked = tuple(
        validation.token_table(file.path, {name: _vectors(file, name, value) for name, value in table.items()})
        for table in tables
    )
    if len(checked) == 1 and (own_name == SECOND_FILE or _width(checked[0]) == SECOND_WIDTH):
        checked = ({}, *checked)
    return ConceptPart(name=file.name, tokens=checked, text_encoders=({},) * len(checked), metadata=_notes(content))


def _automatic1111(file: WeightFile) -> dict[str, Any]:
    """Return its table, the one entry without a name under the embedding's own."""
    stray = next((key for key in file.content if key not in (STRING_TO_PARAM, *NOTES)), None)
    if stray is not None:
        raise ConceptFileError(f"{file.path} has '{stray}', which no textual inversion of AUTOMATIC1111 has")
    vectors = file.content[STRING_TO_PARAM]
    if not isinstance(vectors, Mapping) or not vectors or (UNNAMED in vectors and len(vectors) > 1):
        raise ConceptFileError(
            f"{file.path} has in '{STRING_TO_PARAM}' neither the one entry '{UNNAMED}' nor placeholders of their own, "
            "as textual inversions have"
        )
    if UNNAMED not in vectors:
        return dict(vectors)
    name = file.content.get("name")
    usable = isinstance(name, str) and name.strip() not in ("", UNNAMED)
    return {str(name) if usable else file.path.stem: vectors[UNNAMED]}


def _vectors(file: WeightFile, name: str, value: object) -> Tensor:
    """Return ``(1, dim)``, or ``(positions, 1, dim)`` for several."""
    vectors = validation.numbers(file.path, str(name), value, (1, 2), "a vector, or several,")
    if vectors.ndim == 1 or len(vectors) == 1:
        return vectors.reshape(1, -1)
    return vectors[:, None]


def _width(table: Mapping[str, Tensor]) -> int:
    return next(iter(table.values())).shape[-1]


def _notes(content: Mapping[str, Any]) -> dict[str, str]:
    """Return what AUTOMATIC1111 noted of the training."""
    notes = {key: content[key] for key in NOTES[2:] if key in content}
    return metadata.short(
        {key: f"{value}" for key, value in notes.items() if isinstance(value, str) or _is_step(value)}
    )


def _is_step(value: object) -> bool:
    return type(value) is int and abs(value) < MAX_STEP
