"""Where the files and models that a recipe names lie, and their hashes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from concept_conductor.concepts.sources import find_file, find_source, sha256_of_source
from concept_conductor.errors import ConceptFileError, ConductorError
from concept_conductor.io.documents import FieldPath
from concept_conductor.io.files import CHECKPOINTS, sha256_of
from concept_conductor.mini import MODEL_FOLDER, NAME, is_embedded
from concept_conductor.recipes.schema.recipe import Recipe

MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")
"""How the files end that a model's hash covers, in the folders of its parts and below them."""

Located = Mapping[FieldPath, Path | str]
"""Where the file, or the model, named at each place of a recipe lies."""


def locate(name: str, folder: Path) -> Path:
    """Return the file that a recipe in ``folder`` means: a path, or the name of a shipped concept."""
    path = folder / name
    shipped = re.fullmatch(r"mini/[A-Za-z0-9_-]+", name) and not os.path.exists(path)
    return find_file(name) if shipped else path


def locate_in(recipe: Recipe, place: FieldPath, folder: Path, *, fetch: bool = True) -> Path:
    """Return the file or folder named at ``place`` of a recipe whose paths count from ``folder``.

    Args:
        recipe: which.
        place: of a file, a concept, which may be a hub's, or a model.
        folder: what paths count from.
        fetch: download what is not here; False for names that strangers wrote.

    Raises:
        ConductorError: it is a hub's and not to be had.
    """
    name = recipe.files()[place]
    if place[-1] == "model":
        return _other_model(name, folder, fetch)
    path = locate(name, folder)
    if os.path.exists(path) or place[0] != "concepts" or os.path.exists(name):
        return path
    try:
        found = find_source(name, recipe.revision_of(place), fetch=fetch)
    except ConceptFileError as error:
        if fetch:
            raise
        raise ConductorError(not_fetched(f"the concept '{name}'", name)) from error
    return found if os.path.exists(found) else path


def located_files(recipe: Recipe) -> dict[FieldPath, Path | str]:
    """Return where each of the files lies that a recipe names.

    Raises:
        RecipeError: one is missing.
    """
    paths: dict[FieldPath, Path | str] = {}
    for place in recipe.files():
        with recipe.blaming(*place):
            path = locate_in(recipe, place, recipe.folder)
            if not os.path.exists(path):
                raise ConductorError(f"there is no file '{path}'; paths count from the recipe's folder")
        paths[place] = path
    return paths


def locate_model(name: str, folder: Path) -> Path | str:
    """Return the folder or checkpoint file of a model, or its hub id where it is not on this machine.

    Raises:
        ConductorError: there is no such folder or file, and the name is no hub id.
    """
    if is_embedded(name):
        return MODEL_FOLDER
    path = folder / name
    if os.path.exists(path):
        return path
    if name.endswith(CHECKPOINTS) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise ConductorError(
            f"there is no model '{name}' in '{folder}'; expected '{NAME}', a diffusers folder, a checkpoint "
            "file, or a hub id 'owner/name'"
        )
    index = in_hub_cache(name, "model_index.json")
    return name if index is None else index.parent


def in_hub_cache(repository: str, file: str, revision: str | None = None) -> Path | None:
    """Return a file of a hub repository that was downloaded before, or None; the hub is not asked.

    Raises:
        ConductorError: no repository can have that name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(repository, file, revision=revision)
    except HFValidationError as error:
        raise ConductorError(f"'{repository}' is no file here, and no name that a hub repository can have") from error
    return Path(found) if isinstance(found, str) else None


def _other_model(name: str, folder: Path, fetch: bool) -> Path:
    """Return where a model besides the recipe's own lies."""
    found = locate_model(name, folder)
    if isinstance(found, Path):
        return found
    if not fetch:
        raise ConductorError(not_fetched(f"the model '{found}'", found))
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(found))
    except OSError as error:
        raise ConductorError(f"the model '{found}' is not on this machine and cannot be had: {error}") from error


def not_fetched(what: str, *names: str) -> str:
    """Say how something is had of the hub that a stranger's image asks for."""
    options = " ".join(f"--fetch {name}" for name in names)
    return f"{what} is not on this machine; to have it downloaded, say so with {options}"


def sha256_at(place: FieldPath, path: Path) -> str:
    """Return the SHA-256 of what a recipe names at a place: a file, a model or, of a concept, a folder too.

    Raises:
        ConductorError: it is none of these.
    """
    if place[-1] == "model":
        return model_sha256(path)
    return sha256_of_source(path) if place[0] == "concepts" else sha256_of(path)


def model_sha256(model: Path) -> str:
    """Return the SHA-256 of a checkpoint file, or of the files in a model folder's parts, however deep.

    Raises:
        ConductorError: there is no model.
    """
    if not model.is_dir():
        return sha256_of(model)
    digest = sha256()
    files = [model / "model_index.json", model / "conductor.json"]
    parts = sorted(part for part in model.iterdir() if part.is_dir())
    files += sorted(file for part in parts for file in part.rglob("*") if file.suffix in MODEL_FILES)
    for file in files:
        if file.is_file():
            digest.update(f"{file.relative_to(model).as_posix()}\0{sha256_of(file)}\n".encode())
    return digest.hexdigest()
