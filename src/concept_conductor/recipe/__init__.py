"""Recipes: one YAML or JSON file = one reproducible picture (or one for each of several seeds)."""

from concept_conductor.recipe.collage import BackgroundEntry, CollageEntry, CutoutEntry
from concept_conductor.recipe.concept import ConceptEntry
from concept_conductor.recipe.fields import MAX_SEEDS, Count, Name, Real, Seed, Seeds, Side, Text, parse_seeds
from concept_conductor.recipe.generation import GenerationEntry
from concept_conductor.recipe.layout import LayoutEntry
from concept_conductor.recipe.placement import AddEntry, PlacementEntry, ReplaceEntry
from concept_conductor.recipe.recipe import Recipe, collage_recipe

__all__ = [
    "MAX_SEEDS",
    "AddEntry",
    "BackgroundEntry",
    "CollageEntry",
    "ConceptEntry",
    "Count",
    "CutoutEntry",
    "GenerationEntry",
    "LayoutEntry",
    "Name",
    "PlacementEntry",
    "Real",
    "Recipe",
    "ReplaceEntry",
    "Seed",
    "Seeds",
    "Side",
    "Text",
    "collage_recipe",
    "parse_seeds",
]
