"""What a layout is and where it comes from: a reference image with masks, points, boxes or words."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor._deprecated import warn
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.tensors import ImageLike, MaskLike, open_image, open_mask
from concept_conductor.layouts.boxes import Box, Point, check_boxes, check_numbers, check_point
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.fit import (
    Fit,
    Window,
    describe_fit,
    fit_box,
    fit_image,
    fit_mask,
    fit_point,
    window_of,
)
from concept_conductor.layouts.generation import TextToImage, generated_scene, objects_in_boxes
from concept_conductor.layouts.mask_edit import MaskEdit
from concept_conductor.layouts.masks import checked_mask
from concept_conductor.layouts.phrases import masks_of_words, masks_of_words_in_boxes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The layout reference: an ordinary image with the wanted arrangement, its prompt, a place per concept.

    Attributes:
        image: a photo, a generated image, or a collage: a PIL image, the path of a file, or an array. Afterwards RGB,
            upright.
        prompt: what the image shows.
        masks: one per concept, in the concepts' order: PIL images, paths, or arrays ``(h, w)``, bool, 0..255 in whole
            numbers or 0..1 in others; or None. Afterwards opened, in the image's proportions.
        points: one per concept ``(x, y)`` in pixels of ``image``: its mask is the region under the point; or None.
        boxes: one per concept ``(left, top, right, bottom)`` in pixels of ``image``: its mask is what of the
            image's regions lies mostly in it; or None.
        edit: what is done to the masks, wherever they come from; or None.
        seeds: of the images that it was generated from, if it was.
        fit: what is done in a run of other proportions: "crop" cuts off what lies beyond them on both sides, "pad"
            keeps all and lets the image's edges go on. It is never stretched.

    Raises:
        ConductorError: an image or mask cannot be read or holds numbers of another range, a mask has other proportions
            than the image, or not exactly one of masks, points and boxes is given.
    """

    image: Image.Image
    prompt: str
    masks: Sequence[MaskLike] | None = None
    points: Sequence[Point] | None = None
    boxes: Sequence[Box] | None = None
    edit: MaskEdit | None = None
    seeds: tuple[int, ...] = ()
    fit: Fit = "crop"

    if TYPE_CHECKING:  # it takes more kinds of images than it holds

        def __init__(
            self,
            image: ImageLike,
            prompt: str,
            masks: Sequence[MaskLike] | None = None,
            points: Sequence[Point] | None = None,
            boxes: Sequence[Box] | None = None,
            edit: MaskEdit | None = None,
            seeds: tuple[int, ...] = (),
            fit: Fit = "crop",
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", open_image(self.image, "the layout's image"))
        if not isinstance(self.prompt, str):
            raise ConductorError(
                f"the layout's prompt must be text that says what its image shows, but it is {self.prompt!r:.60}"
            )
        if sum(places is not None for places in (self.masks, self.points, self.boxes)) != 1:
            raise ConductorError(
                "a layout needs either masks= or points= or boxes= (one for each concept), exactly one of the three"
            )
        if self.edit is not None and not isinstance(self.edit, MaskEdit):
            raise ConductorError(f"the layout's edit must be a MaskEdit, but it is of type {type(self.edit).__name__}")
        if self.fit not in get_args(Fit):
            raise ConductorError(f"the layout's fit must be 'crop' or 'pad', but it is {self.fit!r:.60}")
        self._check_places()

    def _check_places(self) -> None:
        given = getattr(self, self.kind)
        if isinstance(given, str | os.PathLike | Image.Image) or not hasattr(given, "__len__"):
            raise ConductorError(
                f"the layout's {self.kind} must be a list with one for each concept, but they are of type "
                f"{type(given).__name__}; put it in brackets"
            )
        if self.kind == "points":
            check_numbers(given, "point", "(x, y)", 2)
        elif self.kind == "boxes":
            check_numbers(given, "box", "(left, top, right, bottom)", 4)
        else:
            masks = [checked_mask(mask, self.image, f"mask {number}") for number, mask in enumerate(given, 1)]
            object.__setattr__(self, "masks", masks)

    @classmethod
    def from_words(
        cls,
        image: ImageLike,
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
        rgb = open_image(image, "the layout's image")
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
        """Return given masks, edited, at the size of ``image``, ``(h, w)`` each; None where a run finds them."""
        if self.masks is None:
            return None
        masks = [np.asarray(open_mask(mask).resize(self.image.size)) > 127 for mask in self.masks]
        return masks if self.edit is None else self.edit.apply(masks)

    def fitted(self, size: tuple[int, int]) -> Layout:
        """Return the layout in the proportions of a run, cropped or padded as ``fit`` says, which is logged.

        Args:
            size: width and height of the run in pixels.

        Raises:
            ConductorError: a mask, point or box lies in what is cut off, or outside of the image.
        """
        window = window_of(self.image.size, size, self.fit)
        if window == (0, 0, *self.image.size):
            return self
        fitted = replace(self, image=fit_image(self.image, window), **self._fitted_places(size, window))
        logger.warning("the layout image %s", describe_fit(self.image.size, window, size))
        return fitted

    def _fitted_places(self, size: tuple[int, int], window: Window) -> dict[str, Any]:
        """The fields that say where concepts are, in pixels of what is kept of the image."""
        if self.points is not None:
            for point in self.points:
                check_point(point, self.image.size, "layout image")
            moved = [fit_point(point, window) for point in self.points]
            width, height = window[2] - window[0], window[3] - window[1]
            self._check_kept([0 <= x < width and 0 <= y < height for x, y in moved], size)
            return {"points": moved}
        if self.boxes is not None:
            check_boxes(self.boxes, self.image.size)
            boxes = [fit_box(box, window) for box in self.boxes]
            self._check_kept([left < right and top < bottom for left, top, right, bottom in boxes], size)
            return {"boxes": boxes}
        # what an edit does depends on all of a mask, so it is done before
        edited = self.masks if self.edit is None else self.exact_masks()
        given = [open_mask(mask) for mask in edited or ()]
        masks = [fit_mask(mask, self.image.size, window) for mask in given]
        self._check_kept([_drawn(kept) or not _drawn(mask) for kept, mask in zip(masks, given)], size)
        return {"masks": masks, "edit": None}

    def _check_kept(self, kept: Sequence[bool], size: tuple[int, int]) -> None:
        """Refuse a place of which nothing is kept."""
        if not all(kept):
            name = {"masks": "mask", "points": "point", "boxes": "box"}[self.kind]
            raise ConductorError(
                f"{name} {kept.index(False) + 1} lies in what is cut off of the layout image for a run of "
                f"{size[0]}x{size[1]}; give fit='pad' ('fit: pad' in a recipe), or a width and height of the image's "
                "proportions"
            )

    @property
    def kind(self) -> str:
        """Return the name of the field that says where the concepts are."""
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

    def mask_source(self, *args: Any, **kwargs: Any) -> Any:
        """Deprecated; call :func:`concept_conductor.pipeline.masks.mask_source` with this layout."""
        warn("Layout.mask_source()", "concept_conductor.pipeline.masks.mask_source(layout, ...)")
        # masks of a run stand above layouts, which know nothing of runs: found by name until this alias goes
        return importlib.import_module("concept_conductor.pipeline.masks").mask_source(self, *args, **kwargs)


def _drawn(mask: Image.Image) -> bool:
    """Whether anything of a mask, L, is inside."""
    return bool(mask.getextrema()[1] > 127)  # type: ignore[operator]  # of one channel
