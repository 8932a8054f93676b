"""The model of a recipe, as the recipe wants it."""

from __future__ import annotations

from concept_conductor.recipes.model import load_pipeline
from concept_conductor.recipes.schema.recipe import Recipe
from tests.conftest import TINY


def test_recipes_carry_the_settings_that_save_memory() -> None:
    recipe = Recipe(prompt="a dog", model=str(TINY), device="cpu", vae_tiling=True, offload=True)
    pipe = load_pipeline(TINY, recipe)
    assert pipe.vae.use_tiling
    assert not hasattr(pipe.unet, "_hf_hook")  # on a CPU there is nothing to offload from
