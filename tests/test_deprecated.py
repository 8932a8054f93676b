"""Old public names, which stay for one release: each warns, and is the very object of the new name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from PIL import Image

import concept_conductor
from concept_conductor import Layout, Placement, Recipe, Replace, _deprecated
from concept_conductor.grounding.judge import JudgeGrounder

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "concepts": {"Concept": "concepts.concept.Concept", "LowRank": "concepts.data.LowRank"},
    "pipeline": {"ConceptConductorPipeline": "pipeline.pipeline.ConceptConductorPipeline"},
    "placement": {"Placement": "placement.placement.Placement", "Replace": "placement.objects.Replace"},
    "layouts.generation": {"PlainPictures": "pipeline.text_to_image.PlainImages"},
}
OLD = [
    (module, name, home)
    for table in (_deprecated.MODULES, PACKAGES)
    for module, names in table.items()
    for name, home in names.items()
]


@pytest.mark.parametrize(("module", "name", "home"), OLD, ids=[f"{module}.{name}" for module, name, _ in OLD])
def test_old_modules_give_the_new_objects(module: str, name: str, home: str) -> None:
    place, _, new = home.rpartition(".")
    old = importlib.import_module(f"concept_conductor.{module}")
    with pytest.warns(DeprecationWarning, match=re.escape(f"use concept_conductor.{home}")):
        found = getattr(old, name)
    assert found is getattr(importlib.import_module(f"concept_conductor.{place}"), new)


def test_names_that_never_were_are_not_found() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        importlib.import_module("concept_conductor.concepts").nothing  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("concept_conductor.never_was")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("concept_conductor.images.never_was")


def test_old_ways_to_make_layouts_and_placements() -> None:
    image = Image.new("RGB", (64, 64), "white")
    with pytest.warns(DeprecationWarning, match=r"use Placement.from_objects\(\)"):
        placement, layout = Placement.of(image, "a street", [Replace(box=(8, 8, 40, 40))])
    assert isinstance(placement, Placement)
    with pytest.warns(DeprecationWarning, match="pipeline.masks.mask_source"):
        assert layout.mask_source(1, (64, 64), (16, 16), None).grid.shape == (1, 16, 16)
    with pytest.warns(DeprecationWarning, match=r"use Layout.from_words\(\)"), pytest.raises(ValueError, match="dog"):
        Layout.ground(image, "a street", ["a dog"], JudgeGrounder())  # there is none


def test_a_recipe_still_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = importlib.import_module("concept_conductor.recipes.runner")
    monkeypatch.setattr(runner, "generate", lambda recipe, *args, **kwargs: (recipe, args, kwargs))
    recipe = Recipe(prompt="a dog")
    with pytest.warns(DeprecationWarning, match=r"use concept_conductor.generate"):
        assert recipe.run(None, trace="inside") == (recipe, (None,), {"trace": "inside"})


def test_everything_public_can_be_imported() -> None:
    for name in concept_conductor.__all__:
        assert getattr(concept_conductor, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        concept_conductor.nothing  # noqa: B018


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{file.name}" for file in sorted((ROOT / "docs").glob("*.md")))])
def test_what_pages_import_is_there_under_its_new_name(page: str) -> None:
    """A deprecated name warns, and warnings are errors."""
    lines = re.findall(r"^from concept_conductor[\w.]* import (?:\([^)]*\)|[^\n]+)", (ROOT / page).read_text(), re.M)
    for line in lines:
        exec(line, {})
