"""`conductor replay`: the same image from the same files, and nothing taken from strangers unchecked."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor.io import images
from concept_conductor.io.images import read_recipe, save_png
from concept_conductor.recipes import files, model, section
from tests.cli.conftest import assert_same_replay
from tests.conftest import TINY


@pytest.fixture
def image(conductor, recipe: Path, quick) -> Path:
    """An image, as generate made it."""
    assert conductor("generate", recipe, "--seeds", "7", "--out", "made").status == 0
    quick.calls.clear()
    return Path("made/seed-0007.png").resolve()


def tampered(file: Path, **changes: object) -> None:
    """Change the record in a PNG as a stranger could."""
    record = json.loads(read_recipe(file))
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = record
        for part in parents:
            target = target[int(part) if part.isdigit() else part]
        target[last] = value
    with Image.open(file) as image:
        save_png(image.copy(), file, {images.RECIPE_KEY: json.dumps(record)})


def test_the_same_image_again(conductor, image: Path, quick) -> None:
    outcome = conductor("replay", image, "--out", "again")
    assert outcome.status == 0, outcome.err
    assert outcome.out == f"{Path('again/seed-0007.png')}: identical, pixel for pixel\n"
    (call,) = quick.calls
    assert call["generator"].initial_seed() == 7
    assert [file.name for file in Path("again").iterdir()] == ["seed-0007.png"]
    again = conductor("replay", "again/seed-0007.png", "--json", "--out", "third")
    assert json.loads(again.out)["identical"] is True


def test_the_real_pipeline_makes_the_same_image_again(conductor, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("steps: 999", "steps: 2") + "paths_per_forward: 1\n")
    assert conductor("generate", recipe, "--seeds", "3", "--out", "made").status == 0
    outcome = conductor("replay", "made/seed-0003.png", "--json")
    assert_same_replay(outcome)


def test_changed_and_missing_files_are_named(conductor, recipe: Path, image: Path, quick) -> None:
    with open(recipe.parent / "chow_dog.pth", "ab") as file:
        file.write(b"!")
    (recipe.parent / "mask2.png").unlink()
    outcome = conductor("replay", image)
    assert outcome.status == 1
    first, second = outcome.err.splitlines()
    assert "chow_dog.pth' is not the file that made this image" in first
    assert second.startswith("'mask2.png' is missing in")
    assert not quick.calls
    assert not Path("replayed").exists()


def test_moved_files_are_found_in_root_by_their_names(conductor, recipe: Path, image: Path, tmp_path: Path) -> None:
    shutil.move(recipe.parent, tmp_path / "elsewhere")
    assert conductor("replay", image).status == 1
    assert conductor("replay", image, "--root", tmp_path / "elsewhere").status == 0


def test_nothing_outside_of_root_is_read(conductor, image: Path, tmp_path: Path) -> None:
    root = tmp_path / "recipes"
    secret = tmp_path / "secret.png"
    shutil.move(root / "ref.png", secret)
    for name in ("../secret.png", str(secret)):
        tampered(image, recipe__layout__image=name, files={**json.loads(read_recipe(image))["files"], name: "0" * 64})
        outcome = conductor("replay", image, "--root", root)
        assert outcome.status == 1
        assert f"'{name}' is missing in" in outcome.err
    os.symlink(secret, root / "link.png")
    tampered(image, recipe__layout__image="link.png")
    assert "'link.png' is missing in" in conductor("replay", image, "--root", root).err


@pytest.mark.parametrize("name", ["/dev/zero", "/"])
def test_devices_and_folders_are_not_read(conductor, image: Path, name: str) -> None:
    tampered(image, recipe__layout__image=name)
    outcome = conductor("replay", image)
    assert outcome.status == 1
    assert f"'{name}' is no ordinary file" in outcome.err


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc")
@pytest.mark.parametrize("field", ["recipe__model", "recipe__concepts__0__file", "recipe__layout__image"])
@pytest.mark.parametrize("name", ["pipe", "/proc/version"])
def test_pipes_and_the_kernels_files_are_not_read(conductor, image: Path, tmp_path: Path, field, name: str) -> None:
    if name == "pipe":
        name = str(tmp_path / name)
        os.mkfifo(name)
    tampered(image, **{field: name})
    outcome = conductor("replay", image)
    assert outcome.status == 1
    assert outcome.err == f"'{name}' is no ordinary file\n"


def test_a_file_that_the_record_has_no_hash_for_is_refused(conductor, image: Path, quick) -> None:
    tampered(image, files={})
    outcome = conductor("replay", image)
    assert outcome.status == 1
    assert len(outcome.err.splitlines()) == 5
    assert not quick.calls


def test_models_are_verified_and_not_downloaded_unasked(conductor, image: Path, quick) -> None:
    tampered(image, model="0" * 64)
    assert "is not the one that made this image: its files differ" in conductor("replay", image).err
    assert "is not the one that made this image" in conductor("replay", image, "--model", TINY).err
    tampered(image, recipe__model="stranger/model")
    assert "to have it downloaded, say so with --model stranger/model" in conductor("replay", image).err
    assert not quick.calls


def test_a_model_that_nothing_vouches_for_is_named_by_the_user(conductor, image: Path, quick) -> None:
    tampered(image, model=None)
    outcome = conductor("replay", image)
    assert outcome.status == 1 and "holds no hash of the model that made it" in outcome.err
    assert not quick.calls
    assert conductor("replay", image, "--model", TINY).status == 0


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks a hub, or anybody, fails the test."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("somebody is asked"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("somebody is asked"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"recipe__layout__masks": None, "recipe__layout__words": ["a dog", "a cat"]},
            "--fetch IDEA-Research/grounding-dino-tiny --fetch facebook/sam-vit-huge",
        ),
        ({"recipe__concepts__0__file": "stranger/concept"}, "--fetch stranger/concept"),
        ({"recipe__concepts__0__file": "stranger/concept/a.pth"}, "--fetch stranger/concept/a.pth"),
        ({"recipe__model": "stranger/model"}, "--model stranger/model"),
        (
            {"recipe__layout": {"generated": {"model": "stranger/model"}, "words": ["a dog", "a cat"]}},
            "--fetch stranger/model",
        ),
    ],
)
def test_the_hub_is_not_asked_for_what_only_the_image_names(
    conductor, image: Path, quick, unreachable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes, said: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(files, "in_hub_cache", lambda *_: None)
    monkeypatch.setattr(section, "in_hub_cache", lambda *_: None)
    tampered(image, **changes)
    outcome = conductor("replay", image)
    assert outcome.status == 1
    assert "is not on this machine; to have it downloaded, say so with " in outcome.err and said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not quick.calls


def test_what_is_loaded_asks_nobody_unless_the_user_names_the_model(
    conductor, image: Path, quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    monkeypatch.setattr(model, "load_pipeline", lambda *_, fetch: fetched.append(fetch) or quick)
    assert conductor("replay", image).status == 0
    assert conductor("replay", image, "--model", TINY).status == 0
    assert fetched == [False, True]


def test_folders_named_in_an_image_are_not_written_to(conductor, image: Path, quick, tmp_path: Path) -> None:
    tampered(
        image, recipe__output=str(tmp_path / "evil"), recipe__inversion={"steps": 2, "cache": str(tmp_path / "evil")}
    )
    assert conductor("replay", image).status == 0
    assert quick.calls[0]["inversion"].cache is True
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": -1}, "'seed': expected a number greater than or equal to 0"),
        ({"recipe__steps": 10**9}, "'recipe.steps': expected a number less than or equal to 1000"),
        ({"format": 2}, "'format': expected 1"),
        ({"files": {"ref.png": "x"}}, "'files.ref.png'"),
        ({"folder": "a\0b"}, "line 1: 'folder': string should match pattern"),
        ({"files": []}, "line 1: 'files': expected a group of fields, but it is a list"),
    ],
)
def test_a_damaged_record(conductor, image: Path, changes: dict[str, object], said: str) -> None:
    tampered(image, **changes)
    outcome = conductor("replay", image)
    assert outcome.status == 1
    assert said in outcome.err


def test_an_edited_image_is_not_the_same(conductor, image: Path) -> None:
    record = read_recipe(image)
    save_png(Image.fromarray(np.full((128, 128, 3), 200, np.uint8)), image, {images.RECIPE_KEY: record})
    outcome = conductor("replay", image)
    assert outcome.status == 1
    assert "is not the same image" in outcome.err


def test_an_image_is_not_overwritten_by_its_replay(conductor, image: Path) -> None:
    outcome = conductor("replay", image, "--out", image.parent)
    assert outcome.status == 1
    assert "choose another folder" in outcome.err


def test_images_without_a_recipe(conductor, recipe: Path) -> None:
    assert "carries no recipe" in conductor("replay", recipe.parent / "ref.png").err
    assert "there is no image" in conductor("replay", "none.png").err
