"""Opening the objects of a recipe's placement: what is replaced, what is added, and the layout that comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from concept_conductor.documents import Place
from concept_conductor.evaluation.grounding import Grounder
from concept_conductor.images import load_image, load_layer, load_mask
from concept_conductor.layouts.cutouts import Cutout
from concept_conductor.placement import Add, Placed, Placement, Replace
from concept_conductor.recipe import AddEntry, Recipe, ReplaceEntry


def open_objects(recipe: Recipe, paths: Mapping[Place, Path | str], grounder: Grounder) -> Placed:
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
        place: Place = ("placement", "objects", index)
        if entry.replace is not None:
            objects.append(_replaced(recipe, entry.replace, paths, (*place, "replace")))
        elif entry.add is not None:
            objects.append(_added(recipe, entry.add, paths, (*place, "add"), grounder))
    with recipe.blaming("placement", "objects"):
        return Placement.of(
            image,
            given.prompt,
            objects,
            grounder,
            layout_prompt=recipe.prompt if any(entry.add is not None for entry in given.objects) else None,
            margin=given.margin,
            background=given.background,
        )


def _replaced(recipe: Recipe, given: ReplaceEntry, paths: Mapping[Place, Path | str], place: Place) -> Replace:
    with recipe.blaming(*place, "mask"):
        mask = None if given.mask is None else load_mask(paths[(*place, "mask")])
    return Replace(mask, given.words, given.point, given.box)


def _added(recipe: Recipe, given: AddEntry, paths: Mapping[Place, Path | str], place: Place, grounder: Grounder) -> Add:
    with recipe.blaming(*place, "image"):
        image = load_layer(paths[(*place, "image")])
    with recipe.blaming(*place, "mask"):
        mask = None if given.mask is None else load_mask(paths[(*place, "mask")])
    with recipe.blaming(*place):
        cutout = Cutout(image, mask) if given.words is None else Cutout.ground(image, given.words, grounder)
        return Add(replace(cutout, flip=given.flip, rotation=given.rotation), given.box, given.point, given.size)
