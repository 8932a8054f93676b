"""files"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from concept_conductor.concepts.sources import find_file, find_source, sha256_of_source
from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import FieldPath
from concept_conductor.io.files import CHECKPOINTS, sha256_of
from concept_conductor.recipes.schema.recipe import Recipe

EMBEDDED_MODEL = "mini"


MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")


def locate(name: str, folder: Path) -> Path:
    """The file that a recipe in ``folder`` means: a path, or the name of a shipped concept."""
    path = folder / name
    return path if path.exists() else find_file(name) if re.fullmatch(r"mini/[A-Za-z0-9_-]+", name) else path


def locate_in(recipe: Recipe, place: FieldPath, folder: Path, *, fetch: bool = True) -> Path:
    """The file or folder named at ``place`` of a recipe whose paths count from ``folder``; concepts may be a hub's.

    Args:
        fetch: download what is not here; False for names that strangers wrote.

    Raises:
        ConductorError: it is a hub's and not to be had.
    """
    name = recipe.files()[place]
    if place[-1] == "model":
        return _other_model(name, folder, fetch)
    path = locate(name, folder)
    if path.exists() or place[0] != "concepts" or Path(name).exists():
        return path
    found = find_source(name, recipe.revision_of(place), fetch=fetch)
    return found if found.exists() else path


def _other_model(name: str, folder: Path, fetch: bool) -> Path:
    """Where a model besides the recipe's own lies."""
    found = locate_model(name, folder)
    if isinstance(found, Path):
        return found
    if not fetch:
        raise ConductorError(f"the model '{found}' is not on this machine, and is not downloaded unasked")
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(found))
    except OSError as error:
        raise ConductorError(f"the model '{found}' is not on this machine and cannot be had: {error}") from error


def sha256_at(place: FieldPath, path: Path) -> str:
    """SHA-256 of what a recipe names at a place: a file, a model or, of a concept, a folder too.

    Raises:
        ConductorError: it is none of these.
    """
    if place[-1] == "model":
        return model_sha256(path)
    return sha256_of_source(path) if place[0] == "concepts" else sha256_of(path)


def locate_model(name: str, folder: Path) -> Path | str:
    """The folder or checkpoint file of a model, or its hub id where it is not on this machine.

    Raises:
        ConductorError: there is no such folder or file, and the name is no hub id.
    """
    if name == EMBEDDED_MODEL:
        from concept_conductor.mini import MODEL_FOLDER

        return MODEL_FOLDER
    path = folder / name
    if path.exists():
        return path
    if name.endswith(CHECKPOINTS) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise ConductorError(
            f"there is no model '{name}' in '{folder}'; expected '{EMBEDDED_MODEL}', a diffusers folder, a checkpoint "
            "file, or a hub id 'owner/name'"
        )
    return _downloaded(name) or name


def _downloaded(hub_id: str) -> Path | None:
    """The folder of a hub model that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub_id, "model_index.json")
    return Path(index).parent if isinstance(index, str) else None


def model_sha256(model: Path) -> str:
    """SHA-256 of a checkpoint file, or of the files in a model folder's parts.

    Raises:
        ConductorError: there is no model.
    """
    if not model.is_dir():
        return sha256_of(model)
    digest = sha256()
    parts = [model / "model_index.json", model / "conductor.json"]
    parts += sorted(file for file in model.glob("*/*") if file.suffix in MODEL_FILES)
    for file in parts:
        if file.is_file():
            digest.update(f"{file.relative_to(model).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()


#: Where the file named at each place of a recipe lies.
Located = Mapping[FieldPath, Path | str]


def located_files(recipe: Recipe) -> dict[FieldPath, Path | str]:
    """Where the files that a recipe names lie.

    Raises:
        ConductorError: one is missing.
    """
    paths: dict[FieldPath, Path | str] = {}
    for place in recipe.files():
        try:
            path = locate_in(recipe, place, recipe.folder)
        except ConductorError as error:
            raise recipe.error(place, str(error)) from error
        if not path.exists():
            raise recipe.error(place, f"there is no file '{path}'; paths count from the recipe's folder")
        paths[place] = path
    return paths
