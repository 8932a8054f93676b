"""Cut-outs: objects without their surroundings, and where they go in a collage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image, ImageChops, ImageOps

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.image_limits import MAX_PIXELS
from concept_conductor.io.tensors import ImageLike, MaskLike, open_image, open_layer, open_mask
from concept_conductor.layouts.boxes import Box, Point
from concept_conductor.layouts.masks import turn_with

OPAQUE = 128
"""From this alpha on, of 255, a pixel shows the cut-out and not what is behind it."""

MOST_TURNED = MAX_PIXELS + MAX_PIXELS // 4
"""Pixels of a cut-out once it is turned: a square needs twice its own at 45 degrees, a long strip far more. Pillow
warns of larger ones."""


@dataclass(frozen=True)
class Cutout:
    """One object without its surroundings, and where it goes.

    It is trimmed to what is visible; flipped, scaled and turned about its middle, in this order; and put there.

    Attributes:
        image: a PIL image, path or array, with transparency, or with a mask. Afterwards RGBA, trimmed.
        mask: where the object is in ``image``, white, of its size. Afterwards None: it is in ``image``.
        position: where its middle comes to lie, (x, y) in pixels of the collage; None for the same place as in its
            own image.
        scale: 2 is twice its own size.
        rotation: in degrees, clockwise.
        flip: mirrored, left to right.
        z: the higher covers the lower; of equals the later covers the earlier.
        scenery: it belongs to the surroundings: no concept takes its place, and it has no mask.

    Raises:
        ConductorError: nothing of it is visible, the mask has another size, or it is scaled beyond measure.
    """

    image: Image.Image
    mask: MaskLike | None = None
    position: Point | None = None
    scale: float = 1.0
    rotation: float = 0.0
    flip: bool = False
    z: int = 0
    scenery: bool = False

    if TYPE_CHECKING:  # it takes more kinds of images than it holds

        def __init__(
            self,
            image: ImageLike,
            mask: MaskLike | None = None,
            position: Point | None = None,
            scale: float = 1.0,
            rotation: float = 0.0,
            flip: bool = False,
            z: int = 0,
            scenery: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConductorError(f"a cut-out's scale must be larger than 0, but it is {self.scale:g}")
        if not all(math.isfinite(number) for number in (self.rotation, *(self.position or ()))):
            raise ConductorError("a cut-out's position and rotation must be finite numbers")
        image = _transparent(self.image, self.mask)
        alpha = image.getchannel("A")
        extent = alpha.getbbox()
        if extent is None or alpha.point(lambda value: value >= OPAQUE).getbbox() is None:
            raise ConductorError("nothing of the cut-out is visible: it is transparent, or its mask black, everywhere")
        if self.position is None:
            object.__setattr__(self, "position", ((extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2))
        object.__setattr__(self, "image", image.crop(extent))
        object.__setattr__(self, "mask", None)
        width, height = (side * self.scale for side in self.image.size)
        if (pixels := width * height) > MAX_PIXELS:
            raise ConductorError(
                f"the cut-out scaled by {self.scale:g} would have {pixels:.3g} pixels, but at most {MAX_PIXELS:,} are "
                "drawn; scale it less"
            )

    @classmethod
    def from_words(cls, image: ImageLike, words: str, grounder: Grounder) -> Cutout:
        """Cut the surest object that ``words`` name out of ``image``.

        Raises:
            ConductorError: they name nothing there.
        """
        layer = open_image(image, "the cut-out's image")
        (found,) = grounder.find(layer, [words])
        if not found:
            raise ConductorError(f"'{words}' is not found in the cut-out's image; use other words, or give a mask")
        return cls(layer, found[0].mask)

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height once scaled, before it is turned."""
        return max(1, round(self.image.width * self.scale)), max(1, round(self.image.height * self.scale))

    def fitted(self, box: Box) -> Cutout:
        """Return it as large as fits into ``box`` (left, top, right, bottom), in the middle of its lower edge."""
        left, top, right, bottom = box
        width, height = replace(self, scale=1.0).drawn().size
        scale = min((right - left) / width, (bottom - top) / height)
        return replace(self, scale=scale, position=((left + right) / 2, bottom - height * scale / 2))

    def drawn(self) -> Image.Image:
        """Return it flipped, scaled and turned, RGBA.

        Edges are resampled with their transparency, so that they don't darken.

        Raises:
            ConductorError: turned, it would be too large.
        """
        image = ImageOps.mirror(self.image) if self.flip else self.image
        if image.size != self.size:
            image = image.resize(self.size, Image.Resampling.LANCZOS)
        if self.rotation % 360:
            self._check_turned(image.size)
            image = image.rotate(-self.rotation, Image.Resampling.BICUBIC, expand=True)
        return image.crop(image.getchannel("A").getbbox())

    def _check_turned(self, size: tuple[int, int]) -> None:
        angle = math.radians(self.rotation % 360)
        across, down = abs(math.cos(angle)), abs(math.sin(angle))
        pixels = (size[0] * across + size[1] * down) * (size[0] * down + size[1] * across)
        if pixels > MOST_TURNED:
            raise ConductorError(
                f"the cut-out of {size[0]}x{size[1]} pixels turned by {self.rotation:g} degrees would need "
                f"{pixels:.3g} pixels, but at most {MOST_TURNED:,} are drawn; make it smaller, or turn it less"
            )

    def part_on(self, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
        """Return what of it lies on a canvas of ``size``, RGBA (nothing is 0x0), and where its upper left corner is."""
        image, (x, y) = self.drawn(), self.middle
        # floor(x + 1/2), so that halves go one way wherever the cut-out lies
        left, top = math.floor(x - image.width / 2 + 0.5), math.floor(y - image.height / 2 + 0.5)
        right, bottom = min(image.width, size[0] - left), min(image.height, size[1] - top)
        corner = max(0, left), max(0, top)
        if corner[0] - left >= right or corner[1] - top >= bottom:  # Pillow takes no number at all beyond
            return Image.new("RGBA", (0, 0)), (0, 0)
        return image.crop((corner[0] - left, corner[1] - top, right, bottom)), corner

    @property
    def middle(self) -> Point:
        """Return its position, which is known once it is made."""
        assert self.position is not None
        return self.position


def _transparent(image: ImageLike, mask: MaskLike | None) -> Image.Image:
    """The image as RGBA, what the mask leaves out transparent."""
    layer = open_layer(image, "the cut-out's image")
    if mask is None:
        if layer.mode != "RGBA":
            raise ConductorError(
                "a cut-out needs an image with transparency (RGBA), or a mask that says where its object is; this "
                "image has none"
            )
        return layer
    inside = turn_with(open_mask(mask, "the cut-out's mask"), layer)
    if inside.size != layer.size:
        raise ConductorError(
            f"the cut-out's image has {layer.width}x{layer.height} pixels, but its mask {inside.width}x"
            f"{inside.height}; expected the same"
        )
    if layer.mode == "RGBA":
        inside = ImageChops.darker(inside, layer.getchannel("A"))
    layer.putalpha(inside)  # makes RGB RGBA
    return layer


def numbered(cutouts: Sequence[Cutout], index: int) -> str:
    """Return what a cut-out is called in messages."""
    return f"cut-out {index + 1} of {len(cutouts)}"
