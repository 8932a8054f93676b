"""Old public names still work for one release: each warns, says the new one, and is the same object."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from concept_conductor import Collage, Cutout, Layout, Placement, Recipe, Replace, generate
from concept_conductor._deprecated import MODULES, PACKAGE, OldModules, install
from concept_conductor.grounding.grounder import Segment
from concept_conductor.layouts import generation
from concept_conductor.pipeline import masks
from concept_conductor.pipeline.text_to_image import PlainImages
from concept_conductor.recipes import runner

#: Modules that are still there, but no longer the home of all that they held.
MOVED_OUT = {
    "concepts": {
        "Concept": "concepts.concept.Concept",
        "FullWeight": "concepts.data.FullWeight",
        "LowRank": "concepts.data.LowRank",
        "Update": "concepts.data.Update",
    },
    "layouts.generation": {"PlainPictures": "pipeline.text_to_image.PlainImages"},
    "pipeline": {
        "ConceptConductorPipeline": "pipeline.pipeline.ConceptConductorPipeline",
        "ConductorOutput": "pipeline.pipeline.ConductorOutput",
    },
    "placement": {
        "Add": "placement.objects.Add",
        "Placement": "placement.placement.Placement",
        "Replace": "placement.objects.Replace",
    },
}
OLD_NAMES = [
    (module, name, home)
    for modules in (MODULES, MOVED_OUT)
    for module, homes in modules.items()
    for name, home in homes.items()
]
#: What README and docs of the last release tell people to write.
DOCUMENTED = [
    "from concept_conductor.evaluation.grounding import GroundedSam",
    "from concept_conductor.evaluation.methods import Method, register_method",
    "from concept_conductor.evaluation.scoring import Instruments, Item, Subject, score_images",
    "from concept_conductor.evaluation.scoring import Metric, Observation, Row, register_metric",
    "from concept_conductor.images import load_image, load_layer, load_mask",
    "from concept_conductor.layouts.edits import MaskEdit",
    "from concept_conductor.layouts.generation import PlainPictures",
]


@pytest.mark.parametrize(("module", "name", "home"), OLD_NAMES)
def test_an_old_name_warns_and_is_the_new_object(module: str, name: str, home: str) -> None:
    place, _, new = home.rpartition(".")
    old = importlib.import_module(f"{PACKAGE}.{module}")  # which says nothing by itself
    with pytest.warns(DeprecationWarning, match="is deprecated") as said:
        found = getattr(old, name)
    assert found is getattr(importlib.import_module(f"{PACKAGE}.{place}"), new)
    assert f"{PACKAGE}.{module}.{name} is deprecated" in str(said[0].message)
    assert str(said[0].message).endswith(f"use {PACKAGE}.{home}")
    assert said[0].filename == __file__  # whoever used the name, not the package


@pytest.mark.parametrize("line", DOCUMENTED)
def test_what_was_documented_can_be_imported(line: str) -> None:
    with pytest.warns(DeprecationWarning, match="is deprecated and will go in the next release; use "):
        exec(line, {})


def test_what_never_was_is_no_old_name() -> None:
    for module in (*MODULES, *MOVED_OUT):
        with pytest.raises(AttributeError, match=r"module 'concept_conductor\.[\w.]+' has no attribute 'nothing'"):
            _ = importlib.import_module(f"{PACKAGE}.{module}").nothing
    with pytest.raises(ModuleNotFoundError, match="concept_conductor.nothing"):
        importlib.import_module(f"{PACKAGE}.nothing")


def test_old_modules_hide_no_real_ones() -> None:
    source = Path(sys.modules[PACKAGE].__file__ or "").parent
    for module in MODULES:
        path = source.joinpath(*module.split("."))
        assert not path.with_suffix(".py").exists() and not path.is_dir()
    install()
    assert sum(isinstance(finder, OldModules) for finder in sys.meta_path) == 1
    assert isinstance(sys.meta_path[-1], OldModules) or not isinstance(sys.meta_path[0], OldModules)


class Everywhere:
    """Finds each of the words once, each in a column of its own."""

    def find(self, image: Image.Image, words: list[str]) -> list[list[Segment]]:
        return [[Segment(noun, 0.9, (n, 0, n + 1, 8), column(n))] for n, noun in enumerate(words)]

    def identity(self) -> str:
        return "everywhere"


def column(number: int) -> np.ndarray:
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, number] = True
    return mask


IMAGE, WHITE = Image.new("RGB", (8, 8), "red"), Image.new("L", (8, 8), "white")
LAYOUTS = [
    ("ground", "from_words", (IMAGE, "a dog", ["a dog"], Everywhere())),
    ("collage", "from_collage", (Collage("white", [Cutout(Image.new("RGBA", (4, 4), "red"))], (8, 8)), "a dog")),
    ("generate", "from_generated", (lambda prompt, seed: IMAGE, "a dog", ["a dog"], Everywhere(), [3])),
]


def with_warning(call: Callable[[], Any], new: str) -> Any:
    """What the call gives, which names ``new`` in its warning."""
    with pytest.warns(DeprecationWarning, match="is deprecated") as said:
        result = call()
    assert len(said) == 1 and str(said[0].message).endswith(f"use {new}") and said[0].filename == __file__
    return result


@pytest.mark.parametrize(("old", "new", "arguments"), LAYOUTS, ids=[old for old, _, _ in LAYOUTS])
def test_old_makers_of_layouts(old: str, new: str, arguments: tuple[Any, ...]) -> None:
    ours = with_warning(lambda: getattr(Layout, old)(*arguments), f"Layout.{new}()")
    theirs = getattr(Layout, new)(*arguments)
    assert type(ours) is Layout
    assert (ours.prompt, ours.seeds, ours.image) == (theirs.prompt, theirs.seeds, theirs.image)
    assert [np.asarray(mask).tolist() for mask in ours.masks or ()] == [
        np.asarray(mask).tolist() for mask in theirs.masks or ()
    ]


def test_placement_of() -> None:
    placed = with_warning(lambda: Placement.of(IMAGE, "a dog", [Replace(mask=WHITE)]), "Placement.from_objects()")
    assert placed.placement.prompt == "a dog" and np.asarray(placed.placement.mask).all()


def test_recipe_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def made(recipe: Recipe, *arguments: Any, **options: Any) -> list[str]:
        asked.append((recipe, arguments, options))
        return ["an image"]

    monkeypatch.setattr(runner, "generate", made)
    recipe = Recipe(prompt="a dog")
    assert with_warning(lambda: recipe.run("pipe", trace="inside"), "concept_conductor.generate(recipe, ...)") == [
        "an image"
    ]
    assert asked == [(recipe, ("pipe",), {"trace": "inside"})]


def test_layout_mask_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "mask_source", lambda layout, *arguments: (layout, arguments))
    layout = Layout(IMAGE, "a dog", masks=[WHITE])
    new = "concept_conductor.pipeline.masks.mask_source(layout, ...)"
    assert with_warning(lambda: layout.mask_source(1, 2), new) == (layout, (1, 2))


def test_new_names_say_nothing() -> None:
    """Warnings are errors here."""
    assert generate is runner.generate and generation.parted is not None and PlainImages is not None
