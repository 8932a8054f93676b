"""What an image tells of its making: nothing that it names is taken before its hash agrees."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io.images import RECIPE_KEY, save_png
from concept_conductor.recipes import provenance as module
from concept_conductor.recipes.files import model_sha256
from concept_conductor.recipes.provenance import Provenance, absolute, differing_versions, versions
from concept_conductor.recipes.schema.recipe import Recipe

LAYOUT = {"image": "street.png", "prompt": "a street", "masks": ["mask.png"]}
CONCEPT = {"file": "dog.pth", "replaces": ["dog"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe's folder, with a model in it."""
    folder = tmp_path / "recipes"
    (folder / "model/unet").mkdir(parents=True)
    (folder / "model/model_index.json").write_text("{}")
    (folder / "model/unet/w.safetensors").write_bytes(b"weights")
    for name in ("street.png", "mask.png", "dog.pth"):
        (folder / name).write_text(name)
    return folder


def made(folder: Path, **changes: Any) -> Provenance:
    """The record of an image that lies beside the recipe's folder."""
    recipe = {"model": "model", "prompt": "a dog", "concepts": [CONCEPT], "layout": LAYOUT}
    record = {
        "recipe": recipe | changes.pop("recipe", {}),
        "seed": 7,
        "folder": "recipes",
        "files": {name: sha256(name.encode()).hexdigest() for name in ("street.png", "mask.png", "dog.pth")},
        "model": model_sha256(folder / "model"),
        "versions": versions(),
    }
    return Provenance.model_validate(record | changes)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Where the image lies, which need not be there."""
    return tmp_path / "image.png"


def test_what_agrees_is_found(folder: Path, image: Path) -> None:
    assert made(folder).located(image) == {
        ("concepts", 0, "file"): folder / "dog.pth",
        ("layout", "image"): folder / "street.png",
        ("layout", "masks", 0): folder / "mask.png",
        ("model",): folder / "model",
    }


def test_every_file_that_does_not_is_named(folder: Path, image: Path) -> None:
    record = made(folder)
    (folder / "dog.pth").write_text("another")
    (folder / "mask.png").unlink()
    (folder / "model/unet/w.safetensors").write_bytes(b"others")
    with pytest.raises(ConductorError) as caught:
        record.located(image)
    first, second, third = str(caught.value).splitlines()
    assert first == f"'{folder / 'dog.pth'}' is not the file that made this image: its contents changed"
    assert second.startswith(f"'mask.png' is missing in '{folder}'")
    assert third == f"the model '{folder / 'model'}' is not the one that made this image: its files differ"


def test_a_model_without_a_hash_is_taken_only_where_the_user_says_so(folder: Path, image: Path) -> None:
    record = made(folder, model=None)
    with pytest.raises(ConductorError, match=r"no hash of the model .* --model \(it was named 'model'\)"):
        record.located(image)
    assert record.located(image, model=str(folder / "model"))["model",] == folder / "model"


def test_a_hubs_model_is_taken_only_where_the_user_says_so(folder: Path, image: Path) -> None:
    record = made(folder, recipe={"model": "stranger/model"})
    with pytest.raises(ConductorError, match="to have it downloaded, say so with --model stranger/model"):
        record.located(image)
    assert record.located(image, model="stranger/model")["model",] == "stranger/model"
    assert record.located(image, fetch=["stranger/model"])["model",] == "stranger/model"


def test_a_layouts_model_is_not_fetched_unasked(folder: Path, image: Path) -> None:
    layout = {"generated": {"model": "stranger/model"}, "words": ["a dog"]}
    with pytest.raises(ConductorError, match="'stranger/model' is not on this machine; .* --fetch stranger/model"):
        made(folder, recipe={"layout": layout}).located(image)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png", "a" * 250 + "/x"])
def test_only_what_lies_in_root_is_taken(folder: Path, image: Path, name: str) -> None:
    (folder.parent / "secret.png").write_text("secret")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    digest = sha256(b"secret").hexdigest()  # which a stranger may know
    record = made(folder, recipe={"layout": {**LAYOUT, "image": name}})
    record = record.model_copy(update={"files": {**record.files, name: digest}})
    with pytest.raises(ConductorError, match=f"^'{name}' is missing in '{folder}'"):
        record.located(image, root=folder)


def test_files_are_found_in_root_without_their_folders(folder: Path, image: Path) -> None:
    record = made(folder, recipe={"layout": {**LAYOUT, "image": "some/where/street.png"}})
    record = record.model_copy(update={"files": {**record.files, "some/where/street.png": record.files["street.png"]}})
    assert record.located(image, root=folder)["layout", "image"] == folder / "some/where/street.png".rpartition("/")[2]


def test_the_recipe_again_writes_nowhere(folder: Path, image: Path) -> None:
    record = made(folder, recipe={"seeds": [1, 7], "output": "/evil", "inversion": {"cache": "/evil"}})
    recipe = record.again(image, None)
    assert (recipe.seeds, recipe.output, recipe.inversion.cache) == ((7,), None, True)
    assert recipe.folder == image.parent / "recipes"
    assert record.again(image, folder).folder == folder


def test_a_record_travels_in_the_image_and_knows_the_way_to_its_recipe(folder: Path, tmp_path: Path) -> None:
    record = made(folder).model_copy(update={"folder": str(folder)})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    file = tmp_path / "link" / "image.png"
    save_png(Image.new("RGB", (8, 8)), file, record.metadata(file))
    again = Provenance.read(file)
    assert again.recipe == record.recipe
    assert again.folder == "../recipes"
    assert os.path.samefile(again.folder_of(file, None), folder)


def test_a_record_that_does_not_fit_names_image_and_field(tmp_path: Path) -> None:
    file = save_png(Image.new("RGB", (8, 8)), tmp_path / "a.png", {RECIPE_KEY: json.dumps({"seed": -1})})
    with pytest.raises(ConductorError, match="a.png, line 1: 'seed': expected a number greater than or equal to 0"):
        Provenance.read(file)


def test_other_versions_are_named() -> None:
    assert differing_versions(versions()) == []
    assert differing_versions({"torch": "0.1", "unknown": "5"}) == [f"torch 0.1 (here {versions()['torch']})"]


def test_a_working_folder_that_was_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConductorError, match="the working folder is gone"):
        absolute(Path("outputs"))
    assert absolute(tmp_path) == tmp_path.resolve()


def test_a_package_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", ("no-such-package",))
    assert versions()["no-such-package"] == "not installed"


def test_recipes_are_kept_as_data(folder: Path) -> None:
    assert Recipe.model_validate(json.loads(made(folder).recipe.model_dump_json())) == made(folder).recipe
