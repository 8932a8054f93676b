"""Collages: cut-outs on a background, which give a layout's image and its exact masks at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps

from concept_conductor.errors import ConductorError
from concept_conductor.io.image_limits import MAX_PIXELS
from concept_conductor.io.tensors import ImageLike, open_image
from concept_conductor.layouts.cutout import OPAQUE, Cutout, numbered

MOST_MASKED = 4 * MAX_PIXELS
"""Pixels of all masks of a collage: 256 MiB, which are copied on their way."""


@dataclass(frozen=True)
class Collage:
    """Cut-outs on a background ("Collage-to-Image" in the paper).

    Attributes:
        background: a PIL image, a ``Path`` or an array; or a colour such as "#87b5e0" or "skyblue".
        cutouts: at least one; of equal ``z`` the later covers the earlier.
        size: width and height in pixels, needed with a colour; an image is cropped and scaled to it. None for the
            image's own.
        image: the collage, RGB.
        masks: for each cut-out that is no scenery, in their order, its visible pixels ``(h, w)``; they are disjoint.

    Raises:
        ConductorError: a cut-out lies outside of the canvas or is wholly covered; there is none; the colour is not
            known; the size is missing, or too large by itself or for so many masks.
    """

    background: ImageLike
    cutouts: Sequence[Cutout]
    size: tuple[int, int] | None = None
    image: Image.Image = field(init=False, repr=False, compare=False)
    masks: list[NDArray[np.bool_]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.cutouts:
            raise ConductorError("a collage needs at least one cut-out; none came")
        canvas = _canvas(self.background, self.size)
        self._check_masks(canvas.size)
        owner = np.full(canvas.size[::-1], -1, dtype=np.int16)
        for index in sorted(range(len(self.cutouts)), key=lambda index: self.cutouts[index].z):
            part, (left, top) = self.cutouts[index].part_on(canvas.size)
            shown = np.asarray(part.getchannel("A")) >= OPAQUE
            if not shown.any():
                x, y = self.cutouts[index].middle
                raise ConductorError(
                    f"{numbered(self.cutouts, index)} lies outside of the collage of {canvas.width}x{canvas.height} "
                    f"pixels: its middle is at ({x:g}, {y:g}); positions are (x, y) from the upper left corner"
                )
            owner[top : top + part.height, left : left + part.width][shown] = index
            canvas.alpha_composite(part, (left, top))
        masks = [owner == index for index, cutout in enumerate(self.cutouts) if not cutout.scenery]
        for index in range(len(self.cutouts)):
            if not (owner == index).any():
                raise ConductorError(
                    f"{numbered(self.cutouts, index)} is wholly covered by others; move it, or give it a higher z"
                )
        object.__setattr__(self, "image", canvas.convert("RGB"))
        object.__setattr__(self, "masks", masks)

    def _check_masks(self, size: tuple[int, int]) -> None:
        """Refuse more masks than can be held; they are as large as the collage each."""
        objects = sum(not cutout.scenery for cutout in self.cutouts)
        if (pixels := objects * size[0] * size[1]) > MOST_MASKED:
            raise ConductorError(
                f"the {objects} masks of a collage of {size[0]}x{size[1]} pixels would have {pixels:,} pixels, but at "
                f"most {MOST_MASKED:,} are held together; make it smaller (layouts are brought to the run's size)"
            )


def _canvas(background: ImageLike, size: tuple[int, int] | None) -> Image.Image:
    """The background alone, RGBA."""
    if size is not None and not (min(size) >= 1 and size[0] * size[1] <= MAX_PIXELS):
        raise ConductorError(
            f"a collage of {size[0]}x{size[1]} pixels was asked for; expected 1 to {MAX_PIXELS:,} pixels in all"
        )
    if isinstance(background, str):
        if size is None:
            raise ConductorError("a collage on a colour needs a size: give its width and height in pixels")
        return Image.new("RGBA", size, colour(background))
    image = open_image(background, "the collage's background")
    if size is not None and size != image.size:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return image.convert("RGBA")


def colour(name: str) -> tuple[int, int, int]:
    """Return a colour by its name or number, RGB.

    Raises:
        ConductorError: there is none of that name.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ConductorError(f"'{name[:60]}' is no colour; expected one such as skyblue or '#87b5e0'") from error
