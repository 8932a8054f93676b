"""What an image tells of its making, and whether the same can be made again."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
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
        """Text chunks for the PNG at ``image``."""
        try:
            folder = os.path.relpath(self.folder, image.parent)
        except ValueError:  # another drive
            folder = self.folder
        record = self.model_copy(update={"folder": Path(folder).as_posix()}).model_dump(mode="json")
        return {
            "Software": f"concept-conductor {self.versions['concept-conductor']}",
            RECIPE_KEY: json.dumps(record, ensure_ascii=False),
        }

    @classmethod
    def read(cls, image: str | Path) -> Provenance:
        """The record that a PNG carries.

        Raises:
            ConductorError: it has none, or one that does not fit.
        """
        return read_json(read_recipe(image), str(image)).validated(cls)

    def again(self, image: Path, root: Path | None) -> Recipe:
        """The recipe that makes the image at ``image`` again; it writes nowhere of its own accord."""
        recipe = self.recipe.shareable().model_copy(update={"seeds": (self.seed,)})
        return recipe.at(root or image.parent / self.folder)

    def located(self, image: Path, root: Path | None, model: str | None) -> dict[FieldPath, Path | str]:
        """Find and verify everything that the recipe names; nothing is opened before its hash agrees.

        Args:
            image: where the PNG lies.
            root: folder that holds the files, by their names as written or without folders; None for where the
                recipe was when the image was made.
            model: to use instead of the one named, counted from the working folder; the same by its hash.

        Raises:
            ConductorError: one sentence for each file that is missing or has changed.
        """
        folder = root or image.parent / self.folder
        found: dict[FieldPath, Path | str] = {}
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
                complaints.append(f"'{path}' is not the file that made this image: its contents changed")
            if path is not None:
                found[place] = path
        where = locate_model(self.recipe.model, folder) if model is None else locate_model(model, Path())
        found["model",] = where
        if isinstance(where, str) and model is None:
            complaints.append(
                f"the model '{where}' is not on this machine; to have it downloaded, say so with --model {where}"
            )
        elif isinstance(where, Path) and self.model is not None and model_sha256(where) != self.model:
            complaints.append(f"the model '{where}' is not the one that made this image: its files differ")
        if complaints:
            raise ConductorError("\n".join(complaints))
        return found


def _inside(root: Path, name: str) -> Path | None:
    """The file of that name, or of its last part, that lies in ``root`` (or is shipped with the package)."""
    if re.fullmatch(r"mini/[A-Za-z0-9_-]+", name) and not (root / name).exists():
        return locate(name, root)
    for candidate in (root / name, root / Path(name).name):
        if candidate.exists() and candidate.resolve().is_relative_to(root.resolve()):
            return candidate
    return None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that images depend on."""
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
