"""Where concepts come from: a file, a folder, a shipped name, or a repository on the hub."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from concept_conductor.concepts.formats import peft_adapter, peft_config
from concept_conductor.errors import ConceptFileError
from concept_conductor.io.files import sha256_of

SHIPPED = "mini/"
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")

#: A repository, and perhaps a file in it.
HUB_ID = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?")
#: What is fetched of a repository for which no file was named; it may hold whole models as well.
USUAL_FILES = [
    *("pytorch_lora_weights.*", "pytorch_custom_diffusion_weights.*", "learned_embeds.*", "learned_embeds_2.*"),
    *("<*>.bin", "adapter_*", *(f"{folder}/adapter_*" for folder in peft_adapter.FOLDERS)),
]
#: What a training leaves beside its weights, to go on from: names without their suffix.
TRAINER_STATE = re.compile(
    r"(optimizer|scheduler|lr_scheduler|scaler|sampler|rng_state|random_states|training_args|trainer_state|dl_state_dict"
    r"|custom_checkpoint)(_\w+)?"
)
#: Embeddings of an earlier step, beside the last ones.
EARLIER = re.compile(r"(.+)-steps-\d+")
#: Folders with a training's earlier states.
CHECKPOINTS = re.compile(r"(checkpoint|epoch|step|global_step)[-_]?\d+|pytorch_model|\..*")


def find_files(source: str | Path, revision: str | None = None) -> list[Path]:
    """Return the files that ``source`` means, in a fixed order.

    Args:
        source: a file, a folder, the name of a shipped concept (``mini/dog-noto``), a repository (``user/name``) or a
            file in one (``user/name/file.safetensors``).
        revision: branch, tag or commit of the repository.

    Raises:
        ConceptFileError: there is none, or the hub cannot be reached.
    """
    path = find_source(source, revision)
    return _weight_files(path) if os.path.isdir(path) else [path]


def find_source(source: str | Path, revision: str | None = None, *, fetch: bool = True) -> Path:
    """Return the file or folder that ``source`` means; see :func:`find_files`.

    Args:
        fetch: download what is not in the hub's cache; False for names that strangers wrote.

    Raises:
        ConceptFileError: it is a hub's and not to be had.
    """
    if not isinstance(source, str | os.PathLike):
        raise ConceptFileError(
            f"expected the name of a concept's file, folder or repository, but a {type(source).__name__} came"
        )
    if not str(source).strip():
        raise ConceptFileError(
            f"there is no concept file '{source}'; give the name of a file, a folder or a repository"
        )
    path = Path(source)
    if not os.path.exists(path) and isinstance(source, str) and not source.startswith(SHIPPED):
        match = HUB_ID.fullmatch(source)
        # "concepts/dog.pth" is a missing file and no repository
        if match and (match[2] or path.suffix not in SUFFIXES):
            return _fetched(match[1], match[2], revision, fetch)
    return find_file(path if os.path.exists(path) else source)


def sha256_of_source(path: Path) -> str:
    """Hash a concept's file or, of a folder, the names and contents of all that is read of it (SHA-256).

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
    """Return the file that ``source`` means: a file, or a shipped concept's name."""
    path = Path(source)
    if os.path.exists(path) or not str(source).startswith(SHIPPED):
        return path
    from concept_conductor.mini import CONCEPTS_FOLDER

    name = str(source).removeprefix(SHIPPED).removesuffix(".safetensors")
    shipped = sorted(file.stem for file in CONCEPTS_FOLDER.glob("*.safetensors"))
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name not in shipped:
        known = ", ".join(SHIPPED + stem for stem in shipped) or "none"
        raise ConceptFileError(f"there is no shipped concept '{source}'; there are: {known}")
    return CONCEPTS_FOLDER / f"{name}.safetensors"


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files of one concept's folder: its own, and those of adapters for single models in it.

    What a training leaves to go on from is passed over. Other weights in folders of it are refused by name.
    """
    try:
        if (folder / "model_index.json").exists():
            raise ConceptFileError(f"{folder} is a whole diffusers model, not a concept; load it as the model")
        own = _weights_in(folder)
        adapters = [file for inner in _parts_in(folder) for file in _adapter(inner)]
    except OSError as error:
        raise ConceptFileError(f"{folder} cannot be looked into ({error.strerror}); check its rights") from error
    stems = {file.stem for file in own}
    files = [file for file in own if not TRAINER_STATE.fullmatch(file.stem) and not _is_earlier(file, stems)] + adapters
    # the same weights are often there twice; safetensors is what everybody prefers
    files = [file for file in files if file.suffix == ".safetensors" or file.with_suffix(".safetensors") not in files]
    if not files:
        within = sorted(
            inner.name for inner in folder.iterdir() if inner.is_dir() and CHECKPOINTS.fullmatch(inner.name)
        )
        hint = f"one of a training's checkpoints in it, such as '{within[-1]}'" if within else "the file itself"
        raise ConceptFileError(f"{folder} is a folder without a concept's weight file; give {hint}")
    return files


def _weights_in(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file.is_file()]


def _is_earlier(file: Path, stems: set[str]) -> bool:
    """Return whether a file holds what a training had earlier than another of its folder."""
    match = EARLIER.fullmatch(file.stem)
    return match is not None and match[1] in stems


def _parts_in(folder: Path) -> list[Path]:
    """Return the folders in ``folder`` that may be parts of its concept."""
    inner = [path for path in sorted(folder.iterdir()) if path.is_dir() and not CHECKPOINTS.fullmatch(path.name)]
    within = {path: [*path.glob("*"), *path.glob("*/*")] for path in inner}
    return [path for path in inner if any(_is_part(file) for file in within[path])]


def _is_part(file: Path) -> bool:
    return file.suffix in SUFFIXES or file.name == peft_config.FILE


def _adapter(folder: Path) -> list[Path]:
    """Return the weight files of the adapter in ``folder``, which its name says a model for."""
    if folder.name not in peft_adapter.FOLDERS or not (folder / peft_config.FILE).exists():
        known = ", ".join(peft_adapter.FOLDERS)
        raise ConceptFileError(
            f"{folder.parent} has weights in its folder '{folder.name}' too, which is no adapter for a model (a folder "
            f"called {known}, with {peft_config.FILE}); give the files that make the concept, one by one"
        )
    files = _weights_in(folder)
    if not files:
        raise ConceptFileError(f"{folder} has an adapter's settings but no weights; was the download complete?")
    return files


def _fetched(repository: str, file: str | None, revision: str | None, fetch: bool) -> Path:
    """Return a repository's file, or the folder of its usual ones, in the hub's cache."""
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
