"""Reading a concept: which files it lies in, which format each has, and one concept out of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from concept_conductor.concepts.data import ConceptPart, Update
from concept_conductor.concepts.formats import (
    a1111_bundle,
    comfyui,
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
from concept_conductor.concepts.formats.weight_file import SETTINGS, WeightFile
from concept_conductor.concepts.layer_names import TEXT_ENCODERS, UNET, resolve
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
    comfyui,
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
    concept = merge([read_part(file) for file in files])
    return replace(concept, source=" + ".join(map(str, given)))


def read_files(paths: Sequence[Path]) -> list[WeightFile]:
    """Return what files hold before anyone knows what it means, bundled embeddings taken apart."""
    return [part for path in paths for part in a1111_bundle.unbundled(weight_file.read(path))]


def read_part(file: WeightFile) -> ConceptPart:
    """Return what one file holds of a concept, its layers called as diffusers and transformers do.

    Raises:
        ConceptFileError: it is of no kind that can be read, or names a layer that no network of the families has.
    """
    reader = format_of(file)
    if SETTINGS in file.metadata and reader is not diffusers_lora:
        raise ConceptFileError(
            f"{file.path} has settings of an adapter in its header ('{SETTINGS}'), which would change what its weights "
            f"mean; a {reader.KIND} has none"
        )
    part = reader.read(file)
    return replace(
        part,
        unet=_named(file, UNET, part.unet),
        text_encoders=tuple(_named(file, *entry) for entry in zip(TEXT_ENCODERS, part.text_encoders)),
    )


def _named(file: WeightFile, model: str, layers: Mapping[str, Update]) -> dict[str, Update]:
    """Return a network's updates under its own layers' names."""
    named: dict[str, Update] = {}
    for given, update in layers.items():
        layer = resolve(model, given)
        if layer is None:
            raise ConceptFileError(
                f"{file.path} has weights for '{given}', but no {'U-Net' if model == UNET else 'text encoder'} of "
                "SD1.5, SD2.1 or SDXL has a linear layer or convolution of that name"
            )
        if layer in named:
            raise ConceptFileError(f"{file.path} has weights of the layer '{layer}' twice; only one can be used")
        named[layer] = update
    return named


def format_of(file: WeightFile) -> Format:
    """Return the format that reads ``file``.

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
