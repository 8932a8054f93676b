"""Layouts that are generated: a whole scene, or each object alone and then put into its box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor._deprecated import names
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.layouts.boxes import Box, check_boxes
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.cutout import Cutout
from concept_conductor.layouts.phrases import Search, parted, shown

Mask = NDArray[np.bool_]


class TextToImage(Protocol):
    """What makes a plain image of a prompt, always the same from the same seed."""

    def __call__(self, prompt: str, seed: int) -> Image.Image:
        """Return the image of ``prompt`` from ``seed``, RGB."""
        ...


class Made(NamedTuple):
    """A layout image that was made.

    Attributes:
        image: RGB.
        masks: one for each of the words.
        seeds: of the images that were taken, in the order in which they were tried.
    """

    image: Image.Image
    masks: list[Mask]
    seeds: tuple[int, ...]


def generated_scene(
    text_to_image: TextToImage, prompt: str, words: Sequence[str], grounder: Grounder, seeds: Sequence[int]
) -> Made:
    """Return the first image of ``prompt`` that shows just as many objects as ``words`` name.

    Where none does, take the first that shows more of them.

    Args:
        text_to_image: makes the candidates.
        prompt: what they shall show.
        words: "a dog", "a dog on the right", one for each concept in the concepts' order.
        grounder: finds objects.
        seeds: of the candidates, in this order.

    Raises:
        ConductorError: no candidate shows them all; it says what each shows.
    """
    search = Search(words)
    crowded: Made | None = None
    seen = []
    for seed in seeds:
        image = text_to_image(prompt, seed)
        found = search.look(image, grounder)
        seen.append(f"seed {seed}: {shown(found)}")
        if search.exact(found):
            return Made(image, search.masks(found), (seed,))
        if crowded is None and search.enough(found):
            crowded = Made(image, search.masks(found), (seed,))
    if crowded is not None:
        return crowded
    wanted = ", ".join(f"{count} of '{noun}'" for noun, count in search.counts.items())
    raise ConductorError(
        f"none of {len(seen)} generated candidates shows {wanted} (found: {'; '.join(seen[:8])}"
        f"{'; ...' if len(seen) > 8 else ''}); give more 'seeds', another prompt, or other words"
    )


def objects_in_boxes(
    text_to_image: TextToImage,
    words: Sequence[str],
    boxes: Sequence[Box],
    grounder: Grounder,
    seeds: Sequence[int],
    *,
    background: Image.Image | str,
    size: tuple[int, int] | None = None,
    prompt: str = "{words}",
) -> Made:
    """Generate objects one by one, fit each into its box, and return the collage of them.

    An object is taken from the first image that shows it once and whole; where none does, from the first that shows
    it at all. Objects of the same words are different ones.

    Args:
        text_to_image: makes the objects' images.
        words: what is in each box.
        boxes: left, top, right, bottom in pixels of the layout.
        grounder: finds objects.
        seeds: tried for each object, in this order.
        background: an image, or a colour.
        size: width and height of the layout; None for the background image's.
        prompt: of an object's image; ``{words}`` stands for its words.

    Raises:
        ConductorError: boxes that cannot be; an object is in none of its images.
    """
    if len(words) != len(boxes):
        raise ConductorError(f"there are {len(words)} words for {len(boxes)} boxes; give one for each box")
    if size is None:
        if isinstance(background, str):
            raise ConductorError("a layout on a colour needs a size: give its width and height in pixels")
        size = background.size
    check_boxes(boxes, size)
    cutouts: list[Cutout] = []
    taken: list[tuple[str, int]] = []
    for text, box in zip(words, boxes):
        noun, _ = parted(text)
        used = [seed for other, seed in taken if other == noun]
        left = [seed for seed in seeds if seed not in used]
        cutout, seed = _object(text_to_image, noun, prompt.replace("{words}", noun), grounder, left)
        cutouts.append(cutout.fitted(box))
        taken.append((noun, seed))
    collage = Collage(background, cutouts, size)
    chosen = {seed for _, seed in taken}
    return Made(collage.image, collage.masks, tuple(seed for seed in seeds if seed in chosen))


def _object(
    text_to_image: TextToImage, noun: str, prompt: str, grounder: Grounder, seeds: Sequence[int]
) -> tuple[Cutout, int]:
    """The object cut out, and the seed of its image."""
    second: tuple[Cutout, int] | None = None
    for seed in seeds:
        image = text_to_image(prompt, seed)
        (found,) = grounder.find(image, [noun])
        if not found:
            continue
        mask = found[0].mask
        if len(found) == 1 and not _cut_off(mask):
            return Cutout(image, mask), seed
        second = second or (Cutout(image, mask), seed)
    if second is None:
        raise ConductorError(
            f"'{noun}' is found in none of the {len(seeds)} images of '{prompt}'; give more 'seeds', another prompt, "
            "or other words"
        )
    return second


def _cut_off(mask: Mask) -> bool:
    """Whether an object reaches the image's edge."""
    return bool(mask[[0, -1]].any() or mask[:, [0, -1]].any())


__getattr__ = names(__name__, {"PlainPictures": "pipeline.text_to_image.PlainImages"})
