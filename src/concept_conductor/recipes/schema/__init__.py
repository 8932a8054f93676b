"""Recipes: one YAML or JSON file = one reproducible image (or one for each of several seeds)."""

from concept_conductor.recipes.schema.collage import BackgroundEntry, CollageEntry, CutoutEntry
from concept_conductor.recipes.schema.concept import ConceptEntry
from concept_conductor.recipes.schema.fields import MAX_SEEDS, Count, Name, Real, Seed, Seeds, Side, Text, parse_seeds
from concept_conductor.recipes.schema.generation import GenerationEntry
from concept_conductor.recipes.schema.layout import LayoutEntry
from concept_conductor.recipes.schema.placement import AddEntry, PlacementEntry, ReplaceEntry
from concept_conductor.recipes.schema.recipe import Recipe, collage_recipe

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
