"""A section knows its recipe, its files and its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounded_sam import GroundedSam
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.recipes import section as module
from concept_conductor.recipes.files import located_files
from concept_conductor.recipes.schema.recipe import Recipe, RecipeError
from concept_conductor.recipes.section import Section

TEXT = """\
prompt: a
layout:
  prompt: a
  collage:
    background: {image: sky.png}
    cutouts:
      - {image: dog.png, mask: dog-mask.png}
"""


@pytest.fixture
def section(tmp_path: Path) -> Section:
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "sky.png")
    Image.new("RGBA", (4, 4), (200, 0, 0, 128)).save(tmp_path / "dog.png")
    Image.new("L", (4, 4), 255).save(tmp_path / "dog-mask.png")
    (tmp_path / "recipe.yaml").write_text(TEXT)
    recipe = Recipe.load(tmp_path / "recipe.yaml")
    return Section(recipe, located_files(recipe))


def test_images_are_opened_where_they_are_named(section: Section) -> None:
    collage = section["layout"]["collage"]
    assert collage["background"].image("image").getpixel((0, 0)) == (0, 0, 255)
    cutout = collage["cutouts"][0]
    assert cutout.layer("image").getpixel((0, 0)) == (200, 0, 0, 128)
    assert (cutout.mask("mask").mode, cutout.mask("mask").getpixel((0, 0))) == ("L", 255)


def test_errors_name_line_and_field(section: Section, tmp_path: Path) -> None:
    (tmp_path / "dog-mask.png").write_bytes(b"no image")
    cutout = section["layout"]["collage"]["cutouts"][0]
    where = f"{tmp_path / 'recipe.yaml'}, line 7: 'layout.collage.cutouts[0]"
    with pytest.raises(RecipeError) as caught:
        cutout.mask("mask")
    assert str(caught.value).startswith(f"{where}.mask': '")
    assert str(cutout.error("is too large")) == f"{where}': is too large"
    with pytest.raises(RecipeError) as caught, cutout.blaming():
        raise ConductorError("is too small")
    assert str(caught.value) == f"{where}': is too small"


def test_a_model_that_is_not_there_is_named(section: Section) -> None:
    assert section.model() == module.locate_model("mini", section.recipe.folder)
    elsewhere = section.recipe.model_copy(update={"model": "none/here.ckpt"}).at(section.recipe.folder)
    with pytest.raises(RecipeError, match="'model': there is no model 'none/here.ckpt'"):
        Section(elsewhere, section.located).model()


def test_the_grounder_is_the_models_own(section: Section, tmp_path: Path) -> None:
    assert isinstance(section.grounder(), JudgeGrounder)
    assert isinstance(Section(section.recipe, {("model",): tmp_path}).grounder(), GroundedSam)


def test_nothing_is_fetched_that_was_not_named(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "in_hub_cache", lambda name, *_: None if "sam" in name else tmp_path)
    elsewhere = {("model",): tmp_path}  # no judge in it
    with pytest.raises(RecipeError, match=r"facebook/sam-vit-huge\) is not on this machine; .*--fetch facebook/sam"):
        Section(section.recipe, elsewhere, fetch=frozenset()).grounder()
    named = Section(section.recipe, elsewhere, fetch=frozenset({"facebook/sam-vit-huge"})).grounder()
    assert isinstance(named, GroundedSam) and not named.local_files_only
    monkeypatch.setattr(module, "in_hub_cache", lambda *_: tmp_path)
    here = Section(section.recipe, elsewhere, fetch=frozenset()).grounder()
    assert isinstance(here, GroundedSam) and here.local_files_only
