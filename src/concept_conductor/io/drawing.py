"""drawing"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from concept_conductor.errors import ConductorError
from concept_conductor.io.fonts import fitting, font

CAPTION_HEIGHT, CAPTION_SIZE = 14, 10
MASK_COLOURS = ("e6194b", "3cb44b", "4363d8", "f58231", "911eb4", "42d4f4", "f032e6", "bfef45")


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side has ``side / 2`` to ``side`` pixels; small images grow by a whole number."""
    longer = max(image.size)
    if longer < side / 2:
        factor = ceil(side / 2 / longer)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.LANCZOS)
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


def contact_sheet(
    images: Sequence[Image.Image],
    columns: int | None = None,
    gap: int = 4,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Images in rows on white, each in a cell as large as the largest.

    Args:
        columns: images in a row, None for about as many as there are rows.
        gap: pixels between and around them.
        captions: one for each, above it, cut where it is wider than the cell.
    """
    if not images:
        raise ConductorError("a contact sheet needs at least one image; none came")
    columns = columns or ceil(sqrt(len(images)))
    columns = min(columns, len(images))
    head = 0 if captions is None else CAPTION_HEIGHT
    width, height = (max(image.size[axis] for image in images) + gap for axis in (0, 1))
    height += head
    sheet = Image.new("RGB", (columns * width + gap, ceil(len(images) / columns) * height + gap), "white")
    pen = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        x, y = index % columns * width + gap, index // columns * height + gap
        if captions is not None:
            text = fitting(captions[index], width - gap - 2, CAPTION_SIZE)
            pen.text((x + 1, y + 1), text, "black", font(CAPTION_SIZE))
        sheet.paste(image, (x, y + head))
    return sheet


def mask_as_image(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    """A mask ``(h, w)`` as a black and white image of ``size`` (width, height)."""
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)


def mask_overlay(image: Image.Image, masks: NDArray[np.bool_]) -> Image.Image:
    """``image`` with each of the masks ``(concepts, h, w)`` tinted in a colour of its own."""
    tinted = image.convert("RGB")
    for index, mask in enumerate(masks):
        colour = Image.new("RGB", image.size, f"#{MASK_COLOURS[index % len(MASK_COLOURS)]}")
        strength = mask_as_image(mask, image.size).point(lambda value: value * 45 // 100)
        tinted.paste(colour, mask=strength)
    return tinted
