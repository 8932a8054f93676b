"""load_layout"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.choose import default_grounder
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.documents import FieldPath
from concept_conductor.io.images import MAX_PIXELS, load_image, load_layer, load_mask
from concept_conductor.layouts.boxes import check_boxes
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.cutout import Cutout
from concept_conductor.layouts.generation import TextToImage
from concept_conductor.layouts.layout import Layout
from concept_conductor.recipes.files import Located, locate_model
from concept_conductor.recipes.schema.collage import BackgroundEntry, CollageEntry, CutoutEntry
from concept_conductor.recipes.schema.generation import GenerationEntry
from concept_conductor.recipes.schema.layout import LayoutEntry
from concept_conductor.recipes.schema.recipe import Recipe

PLAIN = "#808080"
"""What lies behind objects in boxes where nothing else is asked for."""


MOST_TOGETHER = 4 * MAX_PIXELS
"""Pixels of all of a collage's cut-outs before they are scaled: 1 GiB."""


@dataclass(frozen=True)
class PendingLayout:
    """A layout for which images have to be generated, once the model is loaded.

    Attributes:
        make: makes it, from a maker of images and the run's width and height.
        place: in the recipe, for messages.
    """

    make: Callable[[TextToImage, tuple[int, int]], Layout]
    place: FieldPath


def load_layout(recipe: Recipe, paths: Located) -> Layout | PendingLayout | None:
    """The recipe's layout, with all files that it names opened.

    Raises:
        ConductorError: a file that cannot be used, words that name nothing in the image, or a collage that cannot be.
    """
    given = recipe.layout
    if given is None:
        return None
    opened: Layout | PendingLayout
    if given.collage is not None:
        opened = _collage(recipe, given.collage, paths)
    elif given.from_boxes:
        opened = _from_boxes(recipe, given, paths)
    elif given.generated is not None:
        opened = _generated(recipe, given, paths)
    else:
        opened = __IMAGED_(recipe, given, paths)
    return opened


def __IMAGED_(recipe: Recipe, given: LayoutEntry, paths: Located) -> Layout:
    """A layout that is an image."""
    image, prompt = _image(recipe, paths, load_image, "layout", "image"), given.prompt or recipe.prompt
    if given.words is not None:
        with recipe.blaming("layout", "words"):
            grounder = grounder_of(recipe, paths, given.threshold)
            return replace(Layout.from_words(image, prompt, given.words, grounder, given.boxes), edit=given.edit)
    masks = None
    if given.masks is not None:
        masks = [_image(recipe, paths, load_mask, "layout", "masks", index) for index in range(len(given.masks))]
    return Layout(image, prompt, masks, given.points, given.boxes, given.edit)


def _generated(recipe: Recipe, given: LayoutEntry, paths: Located) -> PendingLayout:
    """A layout that is a generated scene."""
    how, words = given.generated, given.words
    assert how is not None and words is not None
    grounder = grounder_of(recipe, paths, given.threshold)

    def make(text_to_image: TextToImage, size: tuple[int, int]) -> Layout:
        layout = Layout.from_generated(text_to_image, how.prompt or recipe.prompt, words, grounder, how.seeds)
        return replace(layout, prompt=given.prompt or layout.prompt, edit=given.edit)

    return PendingLayout(make, ("layout", "generated"))


def _from_boxes(recipe: Recipe, given: LayoutEntry, paths: Located) -> PendingLayout:
    """A layout of objects that are generated one by one."""
    boxes, words, how = given.boxes, given.words, given.generated or GenerationEntry()
    assert boxes is not None and words is not None
    behind = given.background or BackgroundEntry(colour=PLAIN)
    grounder = grounder_of(recipe, paths, given.threshold)
    opened = _background(recipe, behind, paths, "layout", "background")
    size = given.size or (opened.size if isinstance(opened, Image.Image) else None)
    if size is not None:
        with recipe.blaming("layout", "boxes"):
            check_boxes(boxes, size)

    def make(text_to_image: TextToImage, run_size: tuple[int, int]) -> Layout:
        background = text_to_image(behind.prompt or "", behind.seed) if opened is None else opened
        layout = Layout.from_boxes(
            text_to_image,
            given.prompt or recipe.prompt,
            words,
            boxes,
            grounder,
            background=background,
            size=size or run_size,
            seeds=how.seeds,
            object_prompt=how.prompt or "{words}",
        )
        return replace(layout, edit=given.edit)

    return PendingLayout(make, ("layout", "boxes"))


def _collage(recipe: Recipe, given: CollageEntry, paths: Located) -> Layout | PendingLayout:
    """A layout of cut-outs."""
    place: FieldPath = ("layout", "collage")
    entry = recipe.layout
    assert entry is not None
    cutouts: list[Cutout] = []
    for index, one in enumerate(given.cutouts):
        cutouts.append(_cutout(recipe, one, paths, (*place, "cutouts", index)))
        if (pixels := sum(cutout.image.width * cutout.image.height for cutout in cutouts)) > MOST_TOGETHER:
            raise recipe.error(
                (*place, "cutouts", index),
                f"the cut-outs so far have {pixels:,} pixels in their images, but at most {MOST_TOGETHER:,} are held "
                "together; make the images smaller",
            )
    background = _background(recipe, given.background, paths, *place, "background")

    def made(behind: Image.Image | str) -> Layout:
        layout = Layout.from_collage(Collage(behind, cutouts, given.size), entry.prompt or recipe.prompt)
        return replace(layout, edit=entry.edit)

    if background is None:
        prompt, seed = given.background.prompt or "", given.background.seed
        return PendingLayout(lambda text_to_image, _size: made(text_to_image(prompt, seed)), place)
    with recipe.blaming(*place):
        return made(background)


def _cutout(recipe: Recipe, given: CutoutEntry, paths: Located, place: FieldPath) -> Cutout:
    image = _image(recipe, paths, load_layer, *place, "image")
    mask = None if given.mask is None else _image(recipe, paths, load_mask, *place, "mask")
    with recipe.blaming(*place):
        if given.words is None:
            cutout = Cutout(image, mask)
        else:
            cutout = Cutout.from_words(image, given.words, grounder_of(recipe, paths, None))
        how = {"rotation": given.rotation, "flip": given.flip, "z": given.z, "scenery": given.scenery}
        cutout = replace(cutout, **how)  # type: ignore[arg-type]  # a mapping of several types
        if given.box is not None:
            return cutout.fitted(given.box)
        return replace(cutout, position=given.position or cutout.position, scale=given.scale or 1.0)


def _background(recipe: Recipe, given: BackgroundEntry, paths: Located, *place: str | int) -> Image.Image | str | None:
    """The image or colour behind cut-outs; None for one that has to be generated."""
    if given.image is not None:
        return _image(recipe, paths, load_image, *place, "image")
    return given.colour


def grounder_of(recipe: Recipe, paths: Located, threshold: float | None) -> Grounder:
    """What finds objects in a recipe's images: the judge for models that have one, else Grounding DINO and SAM."""
    other = paths.get(("layout", "generated", "model"))
    model = other if other is not None else paths.get(("model",)) or locate_model(recipe.model, recipe.folder)
    return default_grounder(model, threshold=threshold)


def _image(recipe: Recipe, paths: Located, load: Callable[[str | Path], Image.Image], *place: str | int) -> Image.Image:
    """The image named at a place of the recipe."""
    try:
        return load(paths[place])
    except ConductorError as error:
        raise recipe.error(place, str(error)) from error
