"""Where files and models lie that recipes name, and which of their contents the hashes cover."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from concept_conductor.errors import ConductorError
from concept_conductor.mini import CONCEPTS_FOLDER, MODEL_FOLDER
from concept_conductor.recipes import files
from concept_conductor.recipes.files import locate, locate_in, locate_model, located_files, model_sha256, sha256_at
from concept_conductor.recipes.schema.recipe import Recipe, RecipeError


def recipe_of(folder: Path, concept: str) -> Recipe:
    (folder / "recipe.yaml").write_text(
        f"prompt: a dog\nconcepts: [{{file: {concept}, replaces: dog}}]\n"
        "layout: {image: a.png, prompt: a dog, masks: [m.png]}\n"
    )
    return Recipe.load(folder / "recipe.yaml")


def test_shipped_names_mean_shipped_concepts_unless_a_file_has_them(tmp_path: Path) -> None:
    assert locate("mini/dog-noto", tmp_path) == CONCEPTS_FOLDER / "dog-noto.safetensors"
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini/dog-noto").touch()
    assert locate("mini/dog-noto", tmp_path) == tmp_path / "mini/dog-noto"
    with pytest.raises(ConductorError, match="there is no shipped concept 'mini/none'"):
        locate("mini/none", tmp_path)


def test_files_count_from_the_recipes_folder(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, "mini/dog-noto")
    with pytest.raises(RecipeError, match=r"line 3: 'layout.image': there is no file '.*a.png'; paths count from"):
        located_files(recipe)
    for name in ("a.png", "m.png"):
        (tmp_path / name).touch()
    assert located_files(recipe) == {
        ("concepts", 0, "file"): CONCEPTS_FOLDER / "dog-noto.safetensors",
        ("layout", "image"): tmp_path / "a.png",
        ("layout", "masks", 0): tmp_path / "m.png",
    }


def test_names_that_no_file_can_have_are_no_files(tmp_path: Path) -> None:
    name = "/".join(["a" * 200] * 30)  # each part is short enough, the whole is not
    with pytest.raises(ConductorError, match="there is no model"):
        locate_model(name, tmp_path)
    with pytest.raises(ConductorError, match="there is no model"):
        locate_model("a" * 300, tmp_path)
    with pytest.raises(RecipeError, match=r"'concepts\[0\].file': there is no "):
        located_files(recipe_of(tmp_path, "a" * 200 + "/" + "b" * 200 + ".pth"))


def test_a_hubs_concept_that_is_not_here_is_fetched_only_if_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def find_source(name: str, revision: str | None, *, fetch: bool) -> Path:
        asked.append(fetch)
        raise files.ConceptFileError("the hub did not give it")

    monkeypatch.setattr(files, "find_source", find_source)
    recipe = recipe_of(tmp_path, "user/name")
    with pytest.raises(ConductorError, match="the hub did not give it"):
        locate_in(recipe, ("concepts", 0, "file"), tmp_path)
    with pytest.raises(ConductorError, match="the concept 'user/name' is not on this machine; .* --fetch user/name"):
        locate_in(recipe, ("concepts", 0, "file"), tmp_path, fetch=False)
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "there is no model 'none' in"),
        ("some/where.safetensors", "there is no model 'some/where.safetensors' in"),
        ("a--b/c..d", "'a--b/c..d' is no file here, and no name that a hub repository can have"),
    ],
)
def test_models_that_cannot_be(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConductorError, match=said):
        locate_model(name, tmp_path)


def test_models_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_model("mini", tmp_path) == MODEL_FOLDER
    (tmp_path / "own").mkdir()
    assert locate_model("own", tmp_path) == tmp_path / "own"
    monkeypatch.setattr(files, "in_hub_cache", lambda name, file: tmp_path / "cached" / file if name == "a/b" else None)
    assert locate_model("a/b", tmp_path) == tmp_path / "cached"
    assert locate_model("c/d", tmp_path) == "c/d"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for name in ("model_index.json", "unet/config.json", "text_encoder/deep/er/w.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "text_encoder/deep/er/w.safetensors"])
def test_a_models_hash_covers_its_files_however_deep(model: Path, name: str) -> None:
    before = model_sha256(model)
    (model / "README.md").write_text("is not loaded")
    assert model_sha256(model) == before
    (model / name).write_text("something else")
    assert model_sha256(model) != before


def test_a_models_hash_is_that_of_its_copy(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "copy")
    assert model_sha256(tmp_path / "copy") == sha256_at(("layout", "generated", "model"), model)


def test_a_files_hash_is_its_contents(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_at(("layout", "image"), tmp_path / "a.png") == expected
    with pytest.raises(ConductorError, match="is no ordinary file"):
        sha256_at(("layout", "image"), tmp_path)
