"""What a layout is and where it comes from: a reference image with masks, points, boxes or words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor._deprecated import warn
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.images import as_rgb
from concept_conductor.io.tensors import MaskLike, mask_image
from concept_conductor.layouts.boxes import Box, Point
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.generation import TextToImage, generated_scene, objects_in_boxes
from concept_conductor.layouts.mask_edit import MaskEdit
from concept_conductor.layouts.phrases import masks_of_words, masks_of_words_in_boxes


@dataclass(frozen=True)
class Layout:
    """The layout reference: an ordinary image with the wanted arrangement, its prompt, a place per concept.

    Attributes:
        image: a photo, a generated image, or a collage.
        prompt: what the image shows.
        masks: one per concept, in the concepts' order; or None.
        points: one per concept ``(x, y)`` in pixels of ``image``: its mask is the region under the point; or None.
        boxes: one per concept ``(left, top, right, bottom)`` in pixels of ``image``: its mask is what of the
            image's regions lies mostly in it; or None.
        edit: what is done to the masks, wherever they come from; or None.
        seeds: of the images that it was generated from, if it was.
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
        object.__setattr__(self, "image", as_rgb(self.image))
        if sum(places is not None for places in (self.masks, self.points, self.boxes)) != 1:
            raise ConductorError(
                "a layout needs either masks= or points= or boxes= (one for each concept), exactly one of the three"
            )

    @classmethod
    def from_words(
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
        rgb = as_rgb(image)
        if boxes is None:
            return cls(rgb, prompt, masks=list(masks_of_words(rgb, words, grounder)))
        return cls(rgb, prompt, masks=list(masks_of_words_in_boxes(rgb, words, boxes, grounder)))

    @classmethod
    def from_collage(cls, collage: Collage, prompt: str) -> Layout:
        """A layout of cut-outs on a background; each cut-out that is no scenery has a mask, its visible pixels.

        Args:
            collage: with a cut-out for each concept, in their order.
            prompt: what it shows.
        """
        return cls(collage.image, prompt, masks=collage.masks)

    @classmethod
    def from_generated(
        cls,
        text_to_image: TextToImage,
        prompt: str,
        words: Sequence[str],
        grounder: Grounder,
        seeds: Sequence[int] = range(8),
    ) -> Layout:
        """A generated image in which the words' objects are found; see :func:`.generated_scene`.

        Raises:
            ConductorError: no candidate shows them all; it says what each shows.
        """
        made = generated_scene(text_to_image, prompt, words, grounder, seeds)
        return cls(made.image, prompt, masks=made.masks, seeds=made.seeds)

    @classmethod
    def from_boxes(
        cls,
        text_to_image: TextToImage,
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
            ConductorError: boxes that cannot be; an object is in none of its images.
        """
        made = objects_in_boxes(
            text_to_image, words, boxes, grounder, seeds, background=background, size=size, prompt=object_prompt
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

    @classmethod
    def ground(cls, *args: Any, **kwargs: Any) -> Layout:
        """Deprecated; call :meth:`from_words`."""
        warn("Layout.ground()", "Layout.from_words()")
        return cls.from_words(*args, **kwargs)

    @classmethod
    def collage(cls, *args: Any, **kwargs: Any) -> Layout:
        """Deprecated; call :meth:`from_collage`."""
        warn("Layout.collage()", "Layout.from_collage()")
        return cls.from_collage(*args, **kwargs)

    @classmethod
    def generate(cls, *args: Any, **kwargs: Any) -> Layout:
        """Deprecated; call :meth:`from_generated`."""
        warn("Layout.generate()", "Layout.from_generated()")
        return cls.from_generated(*args, **kwargs)
