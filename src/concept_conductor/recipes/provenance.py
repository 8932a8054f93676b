"""What an image tells of its making, and whether the same can be made again."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from concept_conductor._version import __version__
from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import FieldPath, read_json
from concept_conductor.io.images import RECIPE_KEY, read_recipe
from concept_conductor.recipes.files import locate, locate_in, locate_model, model_sha256, sha256_at
from concept_conductor.recipes.schema.fields import Name
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.settings import Settings

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow")
"""What images depend on."""


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Provenance(Settings):
    """What a PNG of ours carries.

    Attributes:
        format: of this record.
        recipe: with every setting filled as it was used.
        seed: this image's.
        folder: the recipe's folder, seen from the image's, where it was made.
        files: SHA-256 of each file the recipe names, by its name as written.
        model: SHA-256 of the model's files; None for a model that is only in memory.
        versions: of the packages that images depend on.
    """

    format: Literal[1] = 1
    recipe: Recipe
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    folder: Name
    files: dict[str, Hash]
    model: Hash | None
    versions: dict[str, str]

    def metadata(self, image: Path) -> dict[str, str]:
        """Return the text chunks for the PNG at ``image``."""
        try:
            folder = os.path.relpath(self.folder, absolute(image.parent))
        except ValueError:  # another drive
            folder = self.folder
        record = self.model_copy(update={"folder": Path(folder).as_posix()}).model_dump(mode="json")
        return {
            "Software": f"concept-conductor {self.versions['concept-conductor']}",
            RECIPE_KEY: json.dumps(record, ensure_ascii=False),
        }

    @classmethod
    def read(cls, image: str | Path) -> Provenance:
        """Read the record that a PNG carries.

        Raises:
            ConductorError: it has none, or one that does not fit.
        """
        return read_json(read_recipe(image), str(image)).validated(cls)

    def again(self, image: Path, root: Path | None) -> Recipe:
        """Return the recipe that makes the image at ``image`` again; it writes nowhere of its own accord."""
        recipe = self.recipe.shareable().model_copy(update={"seeds": (self.seed,)})
        return recipe.at(self.folder_of(image, root))

    def folder_of(self, image: Path, root: Path | None) -> Path:
        """Return the folder of the recipe's files: ``root``, or where it was when the image was made."""
        return image.parent / self.folder if root is None else root

    def located(
        self, image: Path, root: Path | None = None, model: str | None = None, fetch: Collection[str] = ()
    ) -> dict[FieldPath, Path | str]:
        """Find and verify everything that the recipe names; nothing is opened before its hash agrees.

        Args:
            image: where the PNG lies.
            root: folder that holds the files, by their names as written or without folders; None for where the
                recipe was when the image was made.
            model: to use instead of the one named, counted from the working folder; the same by its hash.
            fetch: names of what the hub may be asked for, of all that the image names.

        Raises:
            ConductorError: one sentence for each file that is missing or has changed.
        """
        found: dict[FieldPath, Path | str] = {}
        complaints = []
        for place in self.recipe.files():
            try:
                found[place] = self._verified(place, self.folder_of(image, root), root is not None, fetch)
            except ConductorError as error:
                complaints.append(str(error))
        try:
            found["model",] = self._verified_model(self.folder_of(image, root), model, fetch)
        except ConductorError as error:
            complaints.append(str(error))
        if complaints:
            raise ConductorError("\n".join(complaints))
        return found

    def _verified(self, place: FieldPath, folder: Path, moved: bool, fetch: Collection[str]) -> Path:
        """Return the file at a place of the recipe, whose hash agrees."""
        name = self.recipe.files()[place]
        if moved and place[-1] != "model":
            path = _inside(folder, name)
        else:
            path = locate_in(self.recipe, place, folder, fetch=name in fetch)
        if path is None or not os.path.exists(path):
            raise ConductorError(f"'{name}' is missing in '{folder}'; give the folder that holds it with --root")
        if sha256_at(place, path) != self.files.get(name):
            raise ConductorError(f"'{path}' is not the file that made this image: its contents changed")
        return path

    def _verified_model(self, folder: Path, model: str | None, fetch: Collection[str]) -> Path | str:
        """Return the model, whose hash agrees, or a hub's that may be downloaded and is verified then."""
        if self.model is None and model is None:
            raise ConductorError(
                "the image holds no hash of the model that made it, which was only in memory; say which to take with "
                f"--model (it was named '{self.recipe.model}')"
            )
        where = locate_model(self.recipe.model, folder) if model is None else locate_model(model, Path())
        if isinstance(where, Path):
            if self.model is not None and model_sha256(where) != self.model:
                raise ConductorError(f"the model '{where}' is not the one that made this image: its files differ")
        elif model is None and where not in fetch:
            raise ConductorError(
                f"the model '{where}' is not on this machine; to have it downloaded, say so with --model {where}"
            )
        return where


def _inside(root: Path, name: str) -> Path | None:
    """Find the file of that name, or of its last part, that lies in ``root`` (or is shipped with the package)."""
    if re.fullmatch(r"mini/[A-Za-z0-9_-]+", name) and not os.path.exists(root / name):
        return locate(name, root)
    for candidate in (root / name, root / Path(name).name):
        if os.path.exists(candidate) and candidate.resolve().is_relative_to(root.resolve()):
            return candidate
    return None


def absolute(folder: Path) -> Path:
    """Return a folder's absolute path, links followed.

    Raises:
        ConductorError: it counts from a working folder that was deleted.
    """
    try:
        return folder.resolve()
    except FileNotFoundError as error:
        raise ConductorError("the working folder is gone; change to one that is there and run it again") from error


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that images depend on."""
    found = {"concept-conductor": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def differing_versions(made_with: Mapping[str, str]) -> list[str]:
    """Return ``torch 2.12.0 (here 2.13.0)`` for every package whose version was another."""
    here = versions()
    return [f"{name} {old} (here {here[name]})" for name, old in made_with.items() if here.get(name, old) != old]
