"""What a recipe names is opened in one pass, small files first, and the model only where an image is generated."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor import ConceptConductorPipeline
from concept_conductor.grounding.grounder import Segment
from concept_conductor.layouts.layout import Layout
from concept_conductor.recipes import layout_images, model, section
from concept_conductor.recipes.files import located_files
from concept_conductor.recipes.load_inputs import Inputs, load_inputs
from concept_conductor.recipes.schema.recipe import Recipe, RecipeError
from tests.conftest import TINY

CONCEPT = "concepts: [{file: chow_dog.pth, replaces: dog}]\n"
COLLAGE = "layout: {prompt: a, collage: {background: BACKGROUND, cutouts: [{image: dog.png, position: [64, 64]}]}}\n"
GENERATED = "layout: {generated: {seeds: 3-4}, words: [a dog], edit: {grow: 1}}\n"
BOXES = "layout: {boxes: [[0, 0, 60, 60]], words: [a dog], generated: {seeds: 3, steps: 1}, BACKGROUND}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGBA", (40, 30), "red").save(tmp_path / "dog.png")
    Image.new("RGB", (128, 128), "blue").save(tmp_path / "sky.png")
    Image.new("L", (128, 128), 255).save(tmp_path / "mask.png")
    shutil.copy(TINY / "chow_dog.pth", tmp_path)
    return tmp_path


class Loaded:
    """How often models are loaded, and which."""

    def __init__(self, pipe: ConceptConductorPipeline) -> None:
        self.pipe = pipe
        self.models: list[Path | str] = []
        self.predictions: list[str | None] = []

    def __call__(self, model: Path | str, recipe: Recipe, *, fetch: bool = True) -> ConceptConductorPipeline:
        self.models.append(model)
        self.predictions.append(recipe.prediction_type)
        return self.pipe


@pytest.fixture
def loaded(tiny_pipe: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    """The tiny model stands for every model, and what finds objects finds one in all of them."""
    loaded = Loaded(tiny_pipe)
    monkeypatch.setattr(model, "load_pipeline", loaded)
    monkeypatch.setattr(layout_images, "load_pipeline", loaded)
    monkeypatch.setattr(section, "default_grounder", lambda *_, **__: Finds())
    return loaded


class Finds:
    """Finds one object in the middle of every image."""

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        mask = np.zeros(image.size[::-1], dtype=bool)
        mask[30:90, 30:90] = True
        return [[Segment(noun, 0.9, (30, 30, 90, 90), mask)] for noun in words]


def opened(folder: Path, text: str, **options: bool) -> Inputs:
    (folder / "recipe.yaml").write_text(f"model: {TINY}\nprompt: a dog\nsteps: 2\n{text}")
    recipe = Recipe.load(folder / "recipe.yaml")
    return load_inputs(recipe, located_files(recipe), **options)


def test_what_lies_in_files_needs_no_model(folder: Path, loaded: Loaded) -> None:
    inputs = opened(folder, CONCEPT + COLLAGE.replace("BACKGROUND", "{image: sky.png}"))
    assert [entry.concept.name for entry in inputs.concepts] == ["chow_dog"]
    assert inputs.layout is not None and inputs.layout.image.getpixel((0, 0)) == (0, 0, 255)
    assert inputs.generation is None and not inputs.model.loaded and not loaded.models
    used = inputs.recipe  # which loads it
    assert (used.width, used.steps, used.concepts[0].weight) == (128, 2, 0.7)
    assert inputs.model.loaded and loaded.models == [TINY]


def test_a_recipe_without_anything(folder: Path, loaded: Loaded) -> None:
    inputs = opened(folder, "")
    assert (inputs.concepts, inputs.layout, inputs.placement, loaded.models) == ([], None, None, [])


def test_a_generated_scene_is_recorded_as_it_was_made(folder: Path, loaded: Loaded) -> None:
    inputs = opened(folder, CONCEPT + GENERATED)
    assert isinstance(inputs.layout, Layout) and inputs.layout.image.size == (128, 128)
    assert inputs.layout.prompt == "a dog" and inputs.layout.edit is not None
    assert inputs.recipe.layout is not None
    how = inputs.recipe.layout.generated
    assert how is not None and how == inputs.generation
    assert (how.seeds, how.steps, how.guidance_scale, how.width, how.height) == ((3,), 2, 7.5, 128, 128)
    assert loaded.models == [TINY]


@pytest.mark.parametrize("background", ["size: [64, 64]", "background: {image: sky.png}", "background: {prompt: sky}"])
def test_objects_are_generated_for_their_boxes(folder: Path, loaded: Loaded, background: str) -> None:
    inputs = opened(folder, CONCEPT + BOXES.replace("BACKGROUND", background))
    assert inputs.layout is not None and inputs.generation is not None
    assert inputs.layout.image.size == ((64, 64) if "size" in background else (128, 128))
    masks = inputs.layout.exact_masks()
    assert masks is not None and masks[0][:60, :60].any() and not masks[0][60:].any()
    assert (inputs.generation.seeds, inputs.generation.steps) == ((3,), 1)


def test_another_model_generates_in_its_own_size(folder: Path, loaded: Loaded) -> None:
    shutil.copytree(TINY, folder / "other", ignore=shutil.ignore_patterns("*.png", "*.pth"))
    more = "width: 64\nprediction_type: epsilon\n"
    inputs = opened(folder, CONCEPT + GENERATED.replace("3-4", "3, model: other") + more)
    assert inputs.layout is not None and inputs.layout.image.size == (128, 128)
    assert loaded.models == [TINY, folder / "other"]
    assert loaded.predictions == ["epsilon", None]  # which the recipe says of its own model


@pytest.mark.parametrize(
    "layout",
    [
        COLLAGE.replace("BACKGROUND", "{prompt: a sky}"),
        GENERATED,
        BOXES.replace("BACKGROUND", "background: {image: sky.png}"),
    ],
)
def test_nothing_is_generated_unless_asked_for(folder: Path, loaded: Loaded, layout: str) -> None:
    inputs = opened(folder, CONCEPT + layout, generate=False)
    assert (inputs.layout, inputs.generation, loaded.models) == (None, None, [])
    (folder / "sky.png").write_bytes(b"no image")
    if "sky.png" in layout:
        with pytest.raises(RecipeError, match=r"line 5: 'layout.background.image': "):
            opened(folder, CONCEPT + layout, generate=False)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("chow_dog.pth", CONCEPT + GENERATED, r"line 4: 'concepts\[0\]': .*chow_dog.pth"),
        ("dog.png", COLLAGE.replace("BACKGROUND", "{prompt: a sky}"), r"line 4: 'layout.collage.cutouts\[0\].image': "),
        ("mask.png", GENERATED + "placement: {image: sky.png, mask: mask.png}\n", "line 5: 'placement.mask': "),
        ("sky.png", BOXES.replace("BACKGROUND", "background: {image: sky.png}"), "line 4: 'layout.background.image': "),
    ],
)
def test_files_are_read_before_the_model(folder: Path, loaded: Loaded, name: str, text: str, said: str) -> None:
    (folder / name).write_bytes(b"damaged")
    with pytest.raises(RecipeError, match=said):
        opened(folder, text)
    assert not loaded.models


def test_boxes_are_checked_before_the_model(folder: Path, loaded: Loaded) -> None:
    with pytest.raises(RecipeError, match=r"line 4: 'layout.boxes': box 1 \(0, 0, 60, 60\) reaches out"):
        opened(folder, BOXES.replace("BACKGROUND", "size: [32, 32]"))
    assert not loaded.models


def test_concepts_are_checked_before_anything_is_generated(
    folder: Path, loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RecipeError("is made for another model")

    monkeypatch.setattr(type(loaded.pipe.backbone), "check", refuse)
    monkeypatch.setattr(layout_images.PlainImages, "__call__", lambda *_: pytest.fail("an image is generated"))
    with pytest.raises(RecipeError, match=r"line 4: 'concepts\[0\].file': is made for another model"):
        opened(folder, CONCEPT + GENERATED)


def test_a_placement_by_objects_is_the_layout_too(folder: Path, loaded: Loaded) -> None:
    objects = "[{add: {image: dog.png, point: [64, 64]}}]"
    inputs = opened(folder, f"placement: {{image: sky.png, prompt: a sky, objects: {objects}}}\n{CONCEPT}")
    assert inputs.placement is not None and inputs.layout is not None
    assert inputs.layout.image.getpixel((64, 64)) == (255, 0, 0)
    assert np.asarray(inputs.placement.image)[64, 64].tolist() == [0, 0, 255]
    assert not loaded.models


def test_objects_that_are_looked_for_name_their_place(folder: Path, loaded: Loaded) -> None:
    entry = "placement: {image: sky.png, prompt: a, objects: [{replace: {point: [200, 3]}}]}\n" + CONCEPT
    with pytest.raises(RecipeError, match=r"line 4: 'placement.objects': the point \(200, 3\) lies outside"):
        opened(folder, entry)
