"""loader"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import (
    a1111_bundle,
    custom_diffusion,
    diffusers_lora,
    ed_lora,
    kohya,
    native,
    peft_adapter,
    textual_inversion,
    unsupported,
    weight_file,
)
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.concepts.merge import merge
from concept_conductor.concepts.sources import find_files
from concept_conductor.errors import ConceptFileError


class Format(Protocol):
    """What a format's module offers."""

    KIND: str

    def recognises(self, file: WeightFile) -> bool: ...

    def read(self, file: WeightFile) -> ConceptPart: ...


FORMATS: tuple[Format, ...] = (
    native,
    ed_lora,
    kohya,
    peft_adapter,
    diffusers_lora,
    custom_diffusion,
    textual_inversion,
)


def load_part(source: str | Path, *others: str | Path, revision: str | None = None) -> ConceptPart:
    """Read a concept from any supported file, or from several that belong together.

    Args:
        source: a file, a folder, the name of a shipped concept (``mini/dog-noto``) or of a repository on the hub
            (``user/name``, ``user/name/file.safetensors``).
        others: further ones that make one concept with it, such as a LoRA's textual inversion.
        revision: branch, tag or commit of repositories.

    Raises:
        ConceptFileError: a file is missing, damaged, hostile or of a kind that cannot be read, or two contradict each
            other.
        FamilyError: parts of it are made for different families.
    """
    given = (source, *others)
    files = [file for one in given for file in read_files(find_files(one, revision))]
    concept = merge([format_of(file).read(file) for file in files])
    return replace(concept, source=" + ".join(map(str, given)))


def read_files(paths: Sequence[Path]) -> list[WeightFile]:
    """What files hold before anyone knows what it means, bundled embeddings taken apart."""
    return [part for path in paths for part in a1111_bundle.unbundled(weight_file.read(path))]


def format_of(file: WeightFile) -> Format:
    """The format that reads ``file``.

    Raises:
        ConceptFileError: none does; the sentence names the file's kind where it is known.
    """
    known = unsupported.kind(file)
    if known is not None:
        raise ConceptFileError(f"{file.path} is of the kind '{known[0]}', which is {known[1]}; it cannot be read")
    for candidate in FORMATS:
        if candidate.recognises(file):
            return candidate
    supported = ", ".join(candidate.KIND for candidate in FORMATS)
    raise ConceptFileError(f"{file.path} holds no concept that is known; what can be read is {supported}")
