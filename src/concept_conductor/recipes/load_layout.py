"""A recipe's layout: its files opened, and what it lacks generated."""

from __future__ import annotations

from dataclasses import replace

from PIL import Image

from concept_conductor.io.image_limits import MAX_PIXELS
from concept_conductor.layouts.boxes import check_boxes
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.cutout import Cutout
from concept_conductor.layouts.layout import Layout
from concept_conductor.recipes.layout_images import LayoutImages
from concept_conductor.recipes.schema.collage import BackgroundEntry, CollageEntry, CutoutEntry
from concept_conductor.recipes.schema.generation import GenerationEntry
from concept_conductor.recipes.schema.layout import LayoutEntry
from concept_conductor.recipes.section import Section

PLAIN = "#808080"
"""What lies behind objects in boxes where nothing else is asked for."""

MOST_TOGETHER = 4 * MAX_PIXELS
"""Pixels of all of a collage's cut-outs before they are scaled: 1 GiB."""


def load_layout(section: Section, entry: LayoutEntry, images: LayoutImages | None) -> Layout | None:
    """Make a recipe's layout; all files that it names are opened before anything is generated.

    Args:
        section: the recipe's layout.
        entry: what it says.
        images: generates images; None generates nothing.

    Returns:
        The layout, or None for one that would have to be generated.

    Raises:
        RecipeError: a file that cannot be used, words that name nothing in the image, or a layout that cannot be.
    """
    if entry.collage is not None:
        layout = _collage(section["collage"], entry.collage, entry.prompt or section.recipe.prompt, images)
    elif entry.from_boxes:
        layout = _from_boxes(section, entry, images)
    elif entry.generated is not None:
        layout = _generated(section, entry, entry.generated, images)
    elif entry.words is not None:
        layout = _from_words(section, entry)
    else:
        image = section.image("image")
        masks = None if entry.masks is None else [section["masks"].mask(index) for index in range(len(entry.masks))]
        with section.blaming():
            layout = Layout(image, entry.prompt or section.recipe.prompt, masks, entry.points, entry.boxes)
    return None if layout is None else replace(layout, edit=entry.edit, fit=entry.fit)


def _from_words(section: Section, entry: LayoutEntry) -> Layout:
    """Make a layout of an image in which words name the objects."""
    assert entry.words is not None
    image = section.image("image")
    with section["words"].blaming():
        grounder = section.grounder(entry.threshold)
        return Layout.from_words(image, entry.prompt or section.recipe.prompt, entry.words, grounder, entry.boxes)


def _generated(
    section: Section, entry: LayoutEntry, generated: GenerationEntry, images: LayoutImages | None
) -> Layout | None:
    """Make a layout of a generated scene."""
    assert entry.words is not None
    if images is None:
        return None
    with section["generated"].blaming():
        grounder = section.grounder(entry.threshold)
        prompt = generated.prompt or section.recipe.prompt
        layout = Layout.from_generated(images, prompt, entry.words, grounder, generated.seeds)
    return replace(layout, prompt=entry.prompt or prompt)


def _from_boxes(section: Section, entry: LayoutEntry, images: LayoutImages | None) -> Layout | None:
    """Make a layout of objects that are generated one by one, each in its box."""
    boxes, words, how = entry.boxes, entry.words, entry.generated or GenerationEntry()
    assert boxes is not None and words is not None
    behind = entry.background or BackgroundEntry(colour=PLAIN)
    background = _background(section["background"], behind)
    size = entry.size or (background.size if isinstance(background, Image.Image) else None)
    with section["boxes"].blaming():
        if size is not None:
            check_boxes(boxes, size)
        if images is None:
            return None
        return Layout.from_boxes(
            images,
            entry.prompt or section.recipe.prompt,
            words,
            boxes,
            section.grounder(entry.threshold),
            background=_generated_background(behind, images) if background is None else background,
            size=size or images.run_size,
            seeds=how.seeds,
            object_prompt=how.prompt or "{words}",
        )


def _collage(section: Section, entry: CollageEntry, prompt: str, images: LayoutImages | None) -> Layout | None:
    """Make a layout of cut-outs on a background."""
    cutouts: list[Cutout] = []
    for index, one in enumerate(entry.cutouts):
        place = section["cutouts"][index]
        cutouts.append(_cutout(place, one))
        if (pixels := sum(cutout.image.width * cutout.image.height for cutout in cutouts)) > MOST_TOGETHER:
            raise place.error(
                f"the cut-outs so far have {pixels:,} pixels in their images, but at most {MOST_TOGETHER:,} are held "
                "together; make the images smaller"
            )
    background = _background(section["background"], entry.background)
    with section.blaming():
        if background is None:
            if images is None:
                return None
            background = _generated_background(entry.background, images)
        return Layout.from_collage(Collage(background, cutouts, entry.size), prompt)


def _cutout(section: Section, entry: CutoutEntry) -> Cutout:
    """Cut an object out of its image, and say where it goes."""
    image = section.layer("image")
    mask = None if entry.mask is None else section.mask("mask")
    with section.blaming():
        if entry.words is None:
            cutout = Cutout(image, mask)
        else:
            cutout = Cutout.from_words(image, entry.words, section.grounder())
        cutout = replace(cutout, rotation=entry.rotation, flip=entry.flip, z=entry.z, scenery=entry.scenery)
        if entry.box is not None:
            return cutout.fitted(entry.box)
        return replace(cutout, position=entry.position or cutout.position, scale=entry.scale or 1.0)


def _background(section: Section, entry: BackgroundEntry) -> Image.Image | str | None:
    """Open the image, or return the colour, behind objects; None for one that has to be generated."""
    return entry.colour if entry.image is None else section.image("image")


def _generated_background(entry: BackgroundEntry, images: LayoutImages) -> Image.Image:
    return images(entry.prompt or "", entry.seed)
