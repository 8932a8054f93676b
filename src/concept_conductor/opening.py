"""Opening what a recipe names: concepts, layout, placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from concept_conductor.concepts import Concept
from concept_conductor.documents import Place
from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.grounding import default_grounder
from concept_conductor.images import load_image, load_mask
from concept_conductor.layout import Layout
from concept_conductor.placement import Placement
from concept_conductor.placing import open_objects
from concept_conductor.prompts import ConceptPrompt
from concept_conductor.provenance import locate_in
from concept_conductor.recipe import Recipe

#: Where the file named at each place of a recipe lies.
Located = Mapping[Place, Path | str]


def located_files(recipe: Recipe) -> dict[Place, Path | str]:
    """Where the files that a recipe names lie.

    Raises:
        ConductorError: one is missing.
    """
    paths: dict[Place, Path | str] = {}
    for place in recipe.files():
        try:
            path = locate_in(recipe, place, recipe.folder)
        except ConductorError as error:
            raise recipe.error(place, str(error)) from error
        if not path.exists():
            raise recipe.error(place, f"there is no file '{path}'; paths count from the recipe's folder")
        paths[place] = path
    return paths


def open_files(recipe: Recipe, paths: Located) -> tuple[list[ConceptPrompt], Layout | None, Placement | None]:
    """Concepts, layout and placement, read from ``paths``.

    Raises:
        ConductorError: a file that cannot be used, or a prompt that does not fit its concept.
    """
    concepts = open_concepts(recipe, paths)
    if recipe.placement is not None and recipe.placement.objects is not None:
        placement, layout = open_objects(recipe, paths)
        return concepts, layout, placement
    return concepts, open_layout(recipe, paths), open_placement(recipe, paths)


def open_concepts(recipe: Recipe, paths: Located) -> list[ConceptPrompt]:
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


def open_layout(recipe: Recipe, paths: Located) -> Layout | None:
    """The recipe's layout.

    Raises:
        ConductorError: a file that cannot be used, or words that name nothing in the picture.
    """
    given = recipe.layout
    if given is None:
        return None
    image = _picture(recipe, paths, load_image, "layout", "image")
    if given.words is not None:
        try:
            return Layout.ground(image, given.prompt, given.words, default_grounder(recipe.model))
        except ConductorError as error:
            raise recipe.error(("layout", "words"), str(error)) from error
    masks = None
    if given.masks is not None:
        masks = [_picture(recipe, paths, load_mask, "layout", "masks", index) for index in range(len(given.masks))]
    return Layout(image, given.prompt, masks, given.points, given.boxes)


def open_placement(recipe: Recipe, paths: Located) -> Placement | None:
    """The recipe's placement by a mask.

    Raises:
        ConductorError: a file that cannot be used.
    """
    given = recipe.placement
    if given is None or given.mask is None:
        return None
    image = _picture(recipe, paths, load_image, "placement", "image")
    mask = _picture(recipe, paths, load_mask, "placement", "mask")
    return Placement(image, mask, given.prompt, given.background)


def _picture(
    recipe: Recipe, paths: Located, load: Callable[[str | Path], Image.Image], *place: str | int
) -> Image.Image:
    """The picture named at a place of the recipe."""
    try:
        return load(paths[place])
    except ConductorError as error:
        raise recipe.error(place, str(error)) from error
