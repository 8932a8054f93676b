"""Draw masks on an image in colours, each with its name: a layout's, or those that a run ended with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont

from concept_conductor.io.drawing import MASK_COLOURS, mask_as_image, mask_overlay, thumbnail
from concept_conductor.io.printable import one_line

LONGEST = 1024
"""Previews have half of this to all of it along their longer side."""
LONGEST_NAME = 40

Box = tuple[int, int, int, int]


def layout_preview(image: Image.Image, masks: Sequence[NDArray[np.bool_]], names: Sequence[str]) -> Image.Image:
    """Return the image, enlarged if it is small, every mask tinted, outlined and named in a colour of its own.

    Args:
        image: the layout's, or what was made.
        masks: ``(h, w)`` each, of any size.
        names: one for each mask.
    """
    preview = thumbnail(image.convert("RGB"), LONGEST)
    sized = [np.asarray(mask_as_image(mask, preview.size)) > 0 for mask in masks]
    preview = mask_overlay(preview, np.stack(sized)) if sized else preview
    width = max(2, max(preview.size) // 256)
    for index, mask in enumerate(sized):
        edge = mask & ~(np.asarray(mask_as_image(mask).filter(ImageFilter.MinFilter(2 * width + 1))) > 0)
        preview.paste(_colour(index), mask=Image.fromarray(edge))
    pen = ImageDraw.Draw(preview)
    font = ImageFont.load_default(max(12, max(preview.size) // 32))
    plates: list[Box] = []
    for index, (mask, name) in enumerate(zip(sized, names, strict=True)):
        plates.append(_plate(pen, font, name, mask, preview.size, plates))
        ink = "black" if sum(_colour(index)) > 450 else "white"
        pen.rounded_rectangle(plates[-1], radius=2 * width, fill=_colour(index))
        pen.text(_middle(plates[-1]), _short(name), ink, font, anchor="mm")
    return preview


def _plate(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    name: str,
    mask: NDArray[np.bool_],
    size: tuple[int, int],
    others: Sequence[Box],
) -> Box:
    """Where a name stands: above its mask where there is room, inside the image, and on no other name."""
    left, _, right, _ = pen.textbbox((0, 0), _short(name), font)
    _, top, _, bottom = pen.textbbox((0, 0), "Ay", font)  # one height for all names
    margin = max(2, int(bottom - top) // 3)
    width, height = int(right - left) + 2 * margin, int(bottom - top) + 2 * margin
    rows, columns = np.nonzero(mask)
    middle, above = (int(columns.mean()), int(rows.min())) if len(rows) else (size[0] // 2, 0)
    x = min(max(0, middle - width // 2), max(0, size[0] - width))
    y = max(0, above - height - margin)
    while any(x < o[2] and o[0] < x + width and y < o[3] and o[1] < y + height for o in others):
        y += margin
    return x, y, x + width, y + height


def _middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _short(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _colour(index: int) -> tuple[int, ...]:
    return ImageColor.getrgb(f"#{MASK_COLOURS[index % len(MASK_COLOURS)]}")
