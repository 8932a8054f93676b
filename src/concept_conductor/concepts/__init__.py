"""Concepts and their files: one module per format, tried in the order of :data:`FORMATS`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

from concept_conductor.concepts import container, ed_lora, foreign, native
from concept_conductor.concepts.concept import Concept, LowRank
from concept_conductor.concepts.container import WeightFile
from concept_conductor.errors import ConceptFileError

__all__ = ["FORMATS", "Concept", "LowRank", "find_file", "format_of", "load_concept"]

SHIPPED = "mini/"


class Format(Protocol):
    """What a format's module offers."""

    KIND: str

    def recognises(self, file: WeightFile) -> bool: ...

    def read(self, file: WeightFile) -> Concept: ...


FORMATS: tuple[Format, ...] = (native, ed_lora)


def load_concept(source: str | Path) -> Concept:
    """Read a concept from any supported file.

    Args:
        source: a file, or the name of a shipped concept such as ``mini/dog-noto``.

    Raises:
        ConceptFileError: the file is missing, damaged, hostile or of a kind that cannot be read.
    """
    file = container.read(find_file(source))
    return format_of(file).read(file)


def find_file(source: str | Path) -> Path:
    """The file that ``source`` means: a file, or a shipped concept's name."""
    path = Path(source)
    if path.exists() or not str(source).startswith(SHIPPED):
        return path
    from concept_conductor.mini import CONCEPTS_FOLDER

    name = str(source).removeprefix(SHIPPED).removesuffix(".safetensors")
    shipped = sorted(file.stem for file in CONCEPTS_FOLDER.glob("*.safetensors"))
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name not in shipped:
        known = ", ".join(SHIPPED + stem for stem in shipped) or "none"
        raise ConceptFileError(f"there is no shipped concept '{source}'; there are: {known}")
    return CONCEPTS_FOLDER / f"{name}.safetensors"


def format_of(file: WeightFile) -> Format:
    """The format that reads ``file``.

    Raises:
        ConceptFileError: none does; the sentence names the file's kind where it is known.
    """
    for candidate in FORMATS:
        if candidate.recognises(file):
            return candidate
    kind = foreign.kind(file)
    supported = " and ".join(candidate.KIND for candidate in FORMATS)
    if kind is None:
        raise ConceptFileError(f"{file.path} holds no concept that is known; {supported} can be read")
    raise ConceptFileError(f"{file.path} is of the kind '{kind}', which cannot be read; {supported} can")
