"""What a picture tells of its making, and whether the same can be made again."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from concept_conductor import __version__
from concept_conductor.concepts import find_file, find_source, sha256_of_source
from concept_conductor.documents import Place, read_json
from concept_conductor.errors import ConductorError
from concept_conductor.files import CHECKPOINTS, sha256_of
from concept_conductor.images import RECIPE_KEY, read_recipe
from concept_conductor.recipe import Name, Recipe
from concept_conductor.settings import Settings

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
"""What pictures depend on."""

EMBEDDED_MODEL = "mini"
MODEL_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Provenance(Settings):
    """What a PNG of ours carries.

    Attributes:
        format: of this record.
        recipe: with every setting filled as it was used.
        seed: this picture's.
        folder: the recipe's folder, seen from the picture's, where it was made.
        files: SHA-256 of each file the recipe names, by its name as written.
        model: SHA-256 of the model's files; None for a model that is only in memory.
        versions: of the packages that pictures depend on.
    """

    format: Literal[1] = 1
    recipe: Recipe
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    folder: Name
    files: dict[str, Hash]
    model: Hash | None
    versions: dict[str, str]

    def metadata(self, picture: Path) -> dict[str, str]:
        """Text chunks for the PNG at ``picture``."""
        try:
            folder = os.path.relpath(self.folder, picture.parent)
        except ValueError:  # another drive
            folder = self.folder
        record = self.model_copy(update={"folder": Path(folder).as_posix()}).model_dump(mode="json")
        return {
            "Software": f"concept-conductor {self.versions['concept-conductor']}",
            RECIPE_KEY: json.dumps(record, ensure_ascii=False),
        }

    @classmethod
    def read(cls, picture: str | Path) -> Provenance:
        """The record that a PNG carries.

        Raises:
            ConductorError: it has none, or one that does not fit.
        """
        return read_json(read_recipe(picture), str(picture)).validated(cls)

    def again(self, picture: Path, root: Path | None) -> Recipe:
        """The recipe that makes the picture at ``picture`` again; it writes nowhere of its own accord."""
        recipe = self.recipe.shareable().model_copy(update={"seeds": (self.seed,)})
        return recipe.at(root or picture.parent / self.folder)

    def located(self, picture: Path, root: Path | None, model: str | None) -> dict[Place, Path | str]:
        """Find and verify everything that the recipe names; nothing is opened before its hash agrees.

        Args:
            picture: where the PNG lies.
            root: folder that holds the files, by their names as written or without folders; None for where the
                recipe was when the picture was made.
            model: to use instead of the one named, counted from the working folder; the same by its hash.

        Raises:
            ConductorError: one sentence for each file that is missing or has changed.
        """
        folder = root or picture.parent / self.folder
        found: dict[Place, Path | str] = {}
        complaints = []
        for place, name in self.recipe.files().items():
            try:
                own = root is None or place[-1] == "model"
                path = locate_in(self.recipe, place, folder, fetch=False) if own else _inside(folder, name)
            except ConductorError as error:
                complaints.append(str(error))
                continue
            if path is None or not path.exists():
                complaints.append(f"'{name}' is missing in '{folder}'; give the folder that holds it with --root")
            elif sha256_at(place, path) != self.files.get(name):
                complaints.append(f"'{path}' is not the file that made this picture: its contents changed")
            if path is not None:
                found[place] = path
        where = locate_model(self.recipe.model, folder) if model is None else locate_model(model, Path())
        found["model",] = where
        if isinstance(where, str) and model is None:
            complaints.append(
                f"the model '{where}' is not on this machine; to have it downloaded, say so with --model {where}"
            )
        elif isinstance(where, Path) and self.model is not None and model_sha256(where) != self.model:
            complaints.append(f"the model '{where}' is not the one that made this picture: its files differ")
        if complaints:
            raise ConductorError("\n".join(complaints))
        return found


def locate(name: str, folder: Path) -> Path:
    """The file that a recipe in ``folder`` means: a path, or the name of a shipped concept."""
    path = folder / name
    return path if path.exists() else find_file(name) if re.fullmatch(r"mini/[A-Za-z0-9_-]+", name) else path


def locate_in(recipe: Recipe, place: Place, folder: Path, *, fetch: bool = True) -> Path:
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


def sha256_at(place: Place, path: Path) -> str:
    """SHA-256 of what a recipe names at a place: a file, a model or, of a concept, a folder too.

    Raises:
        ConductorError: it is none of these.
    """
    if place[-1] == "model":
        return model_sha256(path)
    return sha256_of_source(path) if place[0] == "concepts" else sha256_of(path)


def _inside(root: Path, name: str) -> Path | None:
    """The file of that name, or of its last part, that lies in ``root`` (or is shipped with the package)."""
    if re.fullmatch(r"mini/[A-Za-z0-9_-]+", name) and not (root / name).exists():
        return locate(name, root)
    for candidate in (root / name, root / Path(name).name):
        if candidate.exists() and candidate.resolve().is_relative_to(root.resolve()):
            return candidate
    return None


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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that pictures depend on."""
    found = {"concept-conductor": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def differing_versions(made_with: Mapping[str, str]) -> list[str]:
    """``torch 2.12.0 (here 2.13.0)`` for every package whose version was another."""
    here = versions()
    return [f"{name} {old} (here {here[name]})" for name, old in made_with.items() if here.get(name, old) != old]
