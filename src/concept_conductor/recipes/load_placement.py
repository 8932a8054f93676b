"""A recipe's placement: where objects are replaced or added in an image, and the layout that goes with it."""

from __future__ import annotations

from dataclasses import replace

from concept_conductor.layouts.cutout import Cutout
from concept_conductor.placement.objects import Add, Replace
from concept_conductor.placement.placement import Placed, Placement
from concept_conductor.recipes.schema.placement import AddEntry, PlacementEntry, ReplaceEntry
from concept_conductor.recipes.section import Section


def load_placement(section: Section, entry: PlacementEntry) -> Placement:
    """Make a placement of the area in a mask.

    Args:
        section: the recipe's placement.
        entry: what it says.

    Raises:
        RecipeError: a file that cannot be used.
    """
    image, mask = section.image("image"), section.mask("mask")
    with section.blaming():
        return Placement(image, mask, entry.prompt, entry.background, entry.fit)


def load_objects(section: Section, entry: PlacementEntry) -> Placed:
    """Make a placement by objects, with its layout; see :func:`load_placement`.

    Raises:
        RecipeError: a file that cannot be used, or an object that is not there or does not fit.
    """
    assert entry.objects is not None and entry.prompt is not None
    image = section.image("image")
    objects: list[Replace | Add] = []
    looked_for = False
    for index, one in enumerate(entry.objects):
        place = section["objects"][index]
        if one.replace is not None:
            objects.append(_replaced(place["replace"], one.replace))
            looked_for |= one.replace.words is not None or one.replace.point is not None
        elif one.add is not None:
            objects.append(_added(place["add"], one.add))
    added = any(one.add is not None for one in entry.objects)
    with section["objects"].blaming():
        return Placement.from_objects(
            image,
            entry.prompt,
            objects,
            section.grounder() if looked_for else None,
            layout_prompt=section.recipe.prompt if added else None,
            margin=entry.margin,
            background=entry.background,
            fit=entry.fit,
        )


def _replaced(section: Section, entry: ReplaceEntry) -> Replace:
    mask = None if entry.mask is None else section.mask("mask")
    return Replace(mask, entry.words, entry.point, entry.box)


def _added(section: Section, entry: AddEntry) -> Add:
    image = section.layer("image")
    mask = None if entry.mask is None else section.mask("mask")
    with section.blaming():
        cutout = (
            Cutout(image, mask) if entry.words is None else Cutout.from_words(image, entry.words, section.grounder())
        )
        return Add(replace(cutout, flip=entry.flip, rotation=entry.rotation), entry.box, entry.point, entry.size)
