"""What a layout is and where it comes from: a reference image with masks, points, boxes or words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_conductor.errors import ConductorError
from concept_conductor.images import as_picture
from concept_conductor.layouts.boxes import Box, check_boxes
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.edits import MaskEdit
from concept_conductor.layouts.generation import TextToImage, generated_scene, objects_in_boxes
from concept_conductor.layouts.mask_sources import (
    EditedMasks,
    GivenMasks,
    MasksInBoxes,
    MaskSource,
    MasksUnderPoints,
    Point,
)
from concept_conductor.layouts.pixels import MaskLike as MaskLike
from concept_conductor.layouts.pixels import image_pixels as image_pixels
from concept_conductor.layouts.pixels import mask_image
from concept_conductor.layouts.pixels import mask_pixels as mask_pixels
from concept_conductor.layouts.words import masks_of_words, masks_of_words_in_boxes
from concept_conductor.masks import to_latent_grid
from concept_conductor.settings import Refinement

if TYPE_CHECKING:
    from concept_conductor.evaluation.grounding import Grounder


@dataclass(frozen=True)
class Layout:
    """The layout reference: an ordinary image with the wanted arrangement, its prompt, a place per concept.

    Attributes:
        image: a photo, a generated picture, or a collage.
        prompt: what the image shows.
        masks: one per concept, in the concepts' order; or None.
        points: one per concept ``(x, y)`` in pixels of ``image``: its mask is the region under the point; or None.
        boxes: one per concept ``(left, top, right, bottom)`` in pixels of ``image``: its mask is what of the
            picture's regions lies mostly in it; or None.
        edit: what is done to the masks, wherever they come from; or None.
        seeds: of the pictures that it was generated from, if it was.
    """

    image: Image.Image
    prompt: str
    masks: Sequence[MaskLike] | None = None
    points: Sequence[Point] | None = None
    boxes: Sequence[Box] | None = None
    edit: MaskEdit | None = None
    seeds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.image, Image.Image):
            raise ConductorError(f"the layout's image must be a PIL image, but it is a {type(self.image).__name__}")
        object.__setattr__(self, "image", as_picture(self.image))
        if sum(places is not None for places in (self.masks, self.points, self.boxes)) != 1:
            raise ConductorError(
                "a layout needs either masks= or points= or boxes= (one for each concept), exactly one of the three"
            )

    @classmethod
    def ground(
        cls,
        image: Image.Image,
        prompt: str,
        words: Sequence[str],
        grounder: Grounder,
        boxes: Sequence[Box] | None = None,
    ) -> Layout:
        """A layout whose masks are found by words; see :func:`.masks_of_words`.

        Args:
            boxes: where each is, ``(left, top, right, bottom)`` in pixels of ``image``; None for anywhere.

        Raises:
            ConductorError: words name nothing, or fewer objects are there than words for them.
        """
        picture = as_picture(image)
        if boxes is None:
            return cls(picture, prompt, masks=list(masks_of_words(picture, words, grounder)))
        return cls(picture, prompt, masks=list(masks_of_words_in_boxes(picture, words, boxes, grounder)))

    @classmethod
    def collage(cls, collage: Collage, prompt: str) -> Layout:
        """A layout of cut-outs on a background; each cut-out that is no scenery has a mask, its visible pixels.

        Args:
            collage: with a cut-out for each concept, in their order.
            prompt: what it shows.
        """
        return cls(collage.image, prompt, masks=collage.masks)

    @classmethod
    def generate(
        cls,
        paint: TextToImage,
        prompt: str,
        words: Sequence[str],
        grounder: Grounder,
        seeds: Sequence[int] = range(8),
    ) -> Layout:
        """A generated picture in which the words' objects are found; see :func:`.generated_scene`.

        Raises:
            ConductorError: no candidate shows them all; it says what each shows.
        """
        made = generated_scene(paint, prompt, words, grounder, seeds)
        return cls(made.image, prompt, masks=made.masks, seeds=made.seeds)

    @classmethod
    def from_boxes(
        cls,
        paint: TextToImage,
        prompt: str,
        words: Sequence[str],
        boxes: Sequence[Box],
        grounder: Grounder,
        *,
        background: Image.Image | str,
        size: tuple[int, int] | None = None,
        seeds: Sequence[int] = range(8),
        object_prompt: str = "{words}",
    ) -> Layout:
        """Objects generated one by one, each in its box on a background; see :func:`.objects_in_boxes`.

        Raises:
            ConductorError: boxes that cannot be; an object is in none of its pictures.
        """
        made = objects_in_boxes(
            paint, words, boxes, grounder, seeds, background=background, size=size, prompt=object_prompt
        )
        return cls(made.image, prompt, masks=made.masks, seeds=made.seeds)

    def exact_masks(self) -> list[NDArray[np.bool_]] | None:
        """Given masks, edited, at the size of ``image``, ``(h, w)`` each; None where they are found during a run."""
        if self.masks is None:
            return None
        masks = [np.asarray(mask_image(mask).resize(self.image.size)) > 127 for mask in self.masks]
        return masks if self.edit is None else self.edit.apply(masks)

    @property
    def kind(self) -> str:
        """The name of the field that says where the concepts are."""
        return next(name for name in ("masks", "points", "boxes") if getattr(self, name) is not None)

    def mask_source(
        self, concepts: int, size: tuple[int, int], latent_size: tuple[int, int], refinement: Refinement
    ) -> MaskSource:
        """Where this layout's masks come from, checked.

        Args:
            concepts: number of concepts.
            size: width and height of the run, in pixels.
            latent_size: height and width of the latent grid.
            refinement: filled; points and boxes look where refinement would end.

        Raises:
            ConductorError: another number of masks, points or boxes than of concepts, an empty mask or box, masks or
                boxes that cover each other, a point or box outside.
        """
        given = getattr(self, self.kind)
        if len(given) != concepts:
            raise ConductorError(
                f"the layout has {len(given)} {self.kind} for {concepts} concepts; give one for each concept, in their "
                "order"
            )
        if self.masks is not None:
            masks = self.masks if self.edit is None else self.exact_masks()
            return GivenMasks(checked_masks(masks or (), size, latent_size))
        regions = self._regions(latent_size, refinement)
        return regions if self.edit is None else EditedMasks(regions, self.edit, self.image.size)

    def _regions(self, latent_size: tuple[int, int], refinement: Refinement) -> MaskSource:
        """Where the masks of points or boxes come from, which are checked."""
        width, height = self.image.size
        if self.boxes is not None:
            check_boxes(self.boxes, self.image.size)
            boxes = [(x0 / width, y0 / height, x1 / width, y1 / height) for x0, y0, x1, y1 in self.boxes]
            return MasksInBoxes(latent_size, refinement, boxes)
        assert self.points is not None
        for x, y in self.points:
            if not (0 <= x < width and 0 <= y < height):
                raise ConductorError(
                    f"the point ({x:g}, {y:g}) lies outside of the layout image of {width}x{height} "
                    "pixels; points are (x, y) from its upper left corner"
                )
        return MasksUnderPoints(latent_size, refinement, [(x / width, y / height) for x, y in self.points])


def checked_masks(masks: Sequence[MaskLike], size: tuple[int, int], latent_size: tuple[int, int]) -> Tensor:
    """Users' masks on the latent grid, ``(concepts, h, w)``, boolean.

    Raises:
        ConductorError: a mask is empty there, or is wholly covered by later ones.
    """
    grid = to_latent_grid(torch.stack([mask_pixels(mask, size) for mask in masks]), latent_size)
    for index, mask in enumerate(grid):
        if not mask.any():
            raise ConductorError(
                f"mask {index + 1} is empty at the latent resolution {latent_size[1]}x{latent_size[0]}; "
                "draw the concept's area in white on black, and not too small"
            )
        later = grid[index + 1 :].any(0)
        if not (mask & ~later).any():
            raise ConductorError(
                f"mask {index + 1} is wholly covered by later masks, so its concept could not appear; draw them apart, "
                "or give the smaller one later: where masks overlap the later concept wins"
            )
    return grid
