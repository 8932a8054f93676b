"""Where concepts come from: a file, a folder, a shipped name, or a repository on the hub."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from concept_conductor.concepts.formats import peft_config
from concept_conductor.concepts.formats.lora_state import TEXT_ENCODERS, UNET
from concept_conductor.errors import ConceptFileError
from concept_conductor.io.files import sha256_of

SHIPPED = "mini/"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")

#: A repository, and perhaps a file in it.
HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?")
#: What is fetched of a repository for which no file was named; it may hold whole models as well.
USUAL_FILES = [
    *("pytorch_lora_weights.*", "pytorch_custom_diffusion_weights.*", "learned_embeds.*", "learned_embeds_2.*"),
    *("<*>.bin", "adapter_*", *(f"{model}/adapter_*" for model in (UNET, *TEXT_ENCODERS))),
]


def find_files(source: str | Path, revision: str | None = None) -> list[Path]:
    """The files that ``source`` means, in a fixed order.

    Args:
        source: a file, a folder, the name of a shipped concept (``mini/dog-noto``), a repository (``user/name``) or a
            file in one (``user/name/file.safetensors``).
        revision: branch, tag or commit of the repository.

    Raises:
        ConceptFileError: there is none, or the hub cannot be reached.
    """
    path = find_source(source, revision)
    return _weight_files(path) if path.is_dir() else [path]


def find_source(source: str | Path, revision: str | None = None, *, fetch: bool = True) -> Path:
    """The file or folder that ``source`` means; see :func:`find_files`.

    Args:
        fetch: download what is not in the hub's cache; False for names that strangers wrote.

    Raises:
        ConceptFileError: it is a hub's and not to be had.
    """
    path = Path(source)
    if not path.exists() and isinstance(source, str) and not source.startswith(SHIPPED):
        match = HUB_ID.fullmatch(source)
        # "concepts/dog.pth" is a missing file and no repository
        if match and (match[2] or path.suffix not in SUFFIXES):
            return _fetched(match[1], match[2], revision, fetch)
    return find_file(path if path.exists() else source)


def sha256_of_source(path: Path) -> str:
    """SHA-256 of a concept's file or, of a folder, of the names and contents of all that is read of it.

    Raises:
        ConductorError: it is neither, or holds no concept.
    """
    if not path.is_dir():
        return sha256_of(path)
    digest = sha256()
    weights = _weight_files(path)
    configs = {file.parent / peft_config.FILE for file in weights}
    for file in sorted([*weights, *(config for config in configs if config.exists())]):
        digest.update(f"{file.relative_to(path).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


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


def _weight_files(folder: Path) -> list[Path]:
    """The weight files of one concept's folder: its own, and those of adapters for single models in it."""
    if (folder / "model_index.json").exists():
        raise ConceptFileError(f"{folder} is a whole diffusers model, not a concept; load it as the model")
    adapters = [folder / model for model in (UNET, *TEXT_ENCODERS) if (folder / model / peft_config.FILE).exists()]
    files = [
        file
        for place in (folder, *adapters)
        for file in sorted(place.iterdir())
        if file.suffix in SUFFIXES and file.is_file()
    ]
    # the same weights are often there twice; safetensors is what everybody prefers
    files = [file for file in files if file.suffix == ".safetensors" or file.with_suffix(".safetensors") not in files]
    if not files:
        raise ConceptFileError(f"{folder} is a folder without a concept's weight file; give the file itself")
    return files


def _fetched(repository: str, file: str | None, revision: str | None, fetch: bool) -> Path:
    """A repository's file, or the folder of its usual ones, in the hub's cache."""
    named = f"'{repository}{f'/{file}' if file else ''}'{f' at {revision}' if revision else ''}"
    try:
        if file is not None:
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=not fetch))
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=USUAL_FILES, local_files_only=not fetch)
        )
    except HFValidationError as error:
        raise ConceptFileError(f"there is no concept file {named}, and it is no name of a hub repository") from error
    except Exception as error:  # connection, rights, disk: the library raises many kinds, and nothing else happens here
        raise ConceptFileError(
            f"there is no concept file {named} here, and the hub did not give it ({_reason(error)}); check the name "
            "and the connection, or download the file and give its path"
        ) from error


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        return f"it answered {status}"
    return "not reachable, and not in the cache" if isinstance(error, LocalEntryNotFoundError) else type(error).__name__
