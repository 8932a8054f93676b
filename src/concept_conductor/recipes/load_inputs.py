"""Opening what a recipe names: concepts, layout, placement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.documents import FieldPath
from concept_conductor.io.images import load_image, load_layer, load_mask
from concept_conductor.layouts.cutout import Cutout
from concept_conductor.layouts.layout import Layout
from concept_conductor.placement.objects import Add, Replace
from concept_conductor.placement.placement import Placed, Placement
from concept_conductor.recipes.files import Located
from concept_conductor.recipes.load_layout import PendingLayout, _image, grounder_of, load_layout
from concept_conductor.recipes.schema.placement import AddEntry, ReplaceEntry
from concept_conductor.recipes.schema.recipe import Recipe

#: Concepts, layout and placement of a recipe.
Opened = tuple[list[ConceptPrompt], "Layout | PendingLayout | None", Placement | None]


def load_inputs(recipe: Recipe, paths: Located) -> Opened:
    """Concepts, layout and placement, read from ``paths``.

    Raises:
        ConductorError: a file that cannot be used, or a prompt that does not fit its concept.
    """
    concepts = load_concepts(recipe, paths)
    if recipe.placement is not None and recipe.placement.objects is not None:
        placement, layout = load_objects(recipe, paths, grounder_of(recipe, paths, None))
        return concepts, layout, placement
    return concepts, load_layout(recipe, paths), load_placement(recipe, paths)


def load_concepts(recipe: Recipe, paths: Located) -> list[ConceptPrompt]:
    """The recipe's concepts with their prompts.

    Raises:
        ConductorError: a file that cannot be used, or a prompt that does not fit its concept.
    """
    concepts = []
    for index, entry in enumerate(recipe.concepts):
        place = ("concepts", index)
        try:
            parts = [path for where, path in paths.items() if where[:3] == (*place, "file")]
            concept = Concept.load(*parts)
            weight = {} if entry.weight is None else {"weight": entry.weight}
            prompt = ConceptPrompt(concept, entry.prompt, entry.replaces, prompt_2=entry.prompt_2, **weight)
            prompt.variant(recipe.prompt)  # raises where placeholders or words to replace are missing
            prompt.variant_2(recipe.prompt_2)
        except ConductorError as error:
            raise recipe.error(place, str(error)) from error
        concepts.append(prompt)
    return concepts


def load_placement(recipe: Recipe, paths: Located) -> Placement | None:
    """The recipe's placement by a mask.

    Raises:
        ConductorError: a file that cannot be used.
    """
    given = recipe.placement
    if given is None or given.mask is None:
        return None
    image = _image(recipe, paths, load_image, "placement", "image")
    mask = _image(recipe, paths, load_mask, "placement", "mask")
    return Placement(image, mask, given.prompt, given.background)


def load_objects(recipe: Recipe, paths: Mapping[FieldPath, Path | str], grounder: Grounder) -> Placed:
    """A recipe's placement by objects, with its layout.

    Args:
        paths: where the file named at each place lies.
        grounder: finds what words name and what lies under points.

    Raises:
        ConductorError: a file that cannot be used, or an object that is not there or does not fit.
    """
    given = recipe.placement
    assert given is not None and given.objects is not None and given.prompt is not None
    with recipe.blaming("placement", "image"):
        image = load_image(paths["placement", "image"])
    objects: list[Replace | Add] = []
    for index, entry in enumerate(given.objects):
        place: FieldPath = ("placement", "objects", index)
        if entry.replace is not None:
            objects.append(_replaced(recipe, entry.replace, paths, (*place, "replace")))
        elif entry.add is not None:
            objects.append(_added(recipe, entry.add, paths, (*place, "add"), grounder))
    with recipe.blaming("placement", "objects"):
        return Placement.from_objects(
            image,
            given.prompt,
            objects,
            grounder,
            layout_prompt=recipe.prompt if any(entry.add is not None for entry in given.objects) else None,
            margin=given.margin,
            background=given.background,
        )


def _replaced(recipe: Recipe, given: ReplaceEntry, paths: Mapping[FieldPath, Path | str], place: FieldPath) -> Replace:
    with recipe.blaming(*place, "mask"):
        mask = None if given.mask is None else load_mask(paths[(*place, "mask")])
    return Replace(mask, given.words, given.point, given.box)


def _added(
    recipe: Recipe, given: AddEntry, paths: Mapping[FieldPath, Path | str], place: FieldPath, grounder: Grounder
) -> Add:
    with recipe.blaming(*place, "image"):
        image = load_layer(paths[(*place, "image")])
    with recipe.blaming(*place, "mask"):
        mask = None if given.mask is None else load_mask(paths[(*place, "mask")])
    with recipe.blaming(*place):
        cutout = Cutout(image, mask) if given.words is None else Cutout.from_words(image, given.words, grounder)
        return Add(replace(cutout, flip=given.flip, rotation=given.rotation), given.box, given.point, given.size)
