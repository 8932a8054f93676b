"""Images drawn from images: contact sheets, tables with captions, thumbnails, and masks in colours."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from concept_conductor.errors import ConductorError
from concept_conductor.io.fonts import fitting, font

CAPTION_HEIGHT, CAPTION_SIZE = 14, 10
TABLE_GAP, TABLE_TEXT = 6, 13
INK, SOFT, PAPER = "#1d2430", "#55606f", "#ffffff"
"""Colours of text, of lesser text, and of what is behind it."""
MASK_COLOURS = ("e6194b", "3cb44b", "4363d8", "f58231", "911eb4", "42d4f4", "f032e6", "bfef45")


def thumbnail(image: Image.Image, side: int) -> Image.Image:
    """Return a copy whose longer side has ``side / 2`` to ``side`` pixels; small images grow by a whole number."""
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
    """Draw images in rows on white, each in a cell as large as the largest.

    Args:
        images: at least one.
        columns: images in a row, None for about as many as there are rows.
        gap: pixels between and around them.
        captions: one for each, above it, cut where it is wider than the cell.

    Raises:
        ConductorError: there is no image.
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


def image_table(
    rows: Sequence[tuple[str, Sequence[Image.Image | None]]],
    cell: int,
    columns: Sequence[str] = (),
    title: str = "",
    left: int = 0,
) -> Image.Image:
    """Draw rows of images with captions on white, each image scaled to fit a square cell.

    Args:
        rows: caption and images of each; None leaves a cell empty. Captions stand on the left, in ``left`` pixels and
            a line for each of theirs, or above their row where that is 0.
        cell: side of a cell in pixels.
        columns: captions above the first row.
        title: above all.
    """
    line = TABLE_TEXT + 5
    across = max(len(images) for _, images in rows)
    top = TABLE_GAP + line * (bool(title) + bool(columns))
    high = cell + TABLE_GAP + (0 if left else line)
    width = left + across * (cell + TABLE_GAP) + TABLE_GAP
    sheet = Image.new("RGB", (width, top + len(rows) * high), PAPER)
    pen = ImageDraw.Draw(sheet)

    def write(text: str, place: tuple[int, int], room: int, colour: str) -> None:
        pen.text(place, fitting(text, room, TABLE_TEXT), colour, font(TABLE_TEXT))

    if title:
        write(title, (TABLE_GAP, TABLE_GAP // 2), width - 2 * TABLE_GAP, INK)
    for number, caption in enumerate(columns):
        place = (left + TABLE_GAP + number * (cell + TABLE_GAP), TABLE_GAP // 2 + line * bool(title))
        write(caption, place, cell, SOFT)
    for number, (caption, images) in enumerate(rows):
        y = top + number * high
        if left:
            for index, text in enumerate(caption.split("\n")):
                write(text, (TABLE_GAP, y + 2 + index * line), left - TABLE_GAP, INK)
        else:
            write(caption, (TABLE_GAP, y), width - 2 * TABLE_GAP, INK)
            y += line
        for column, image in enumerate(images):
            if image is not None:
                sheet.paste(scaled(image, cell), (left + TABLE_GAP + column * (cell + TABLE_GAP), y))
    return sheet


def scaled(image: Image.Image, side: int) -> Image.Image:
    """Return an image scaled so that its longer side has ``side`` pixels."""
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def mask_as_image(mask: NDArray[np.bool_], size: tuple[int, int] | None = None) -> Image.Image:
    """Return a mask ``(h, w)`` as a black and white image, of ``size`` (width, height) where that is given."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return image if size is None else image.resize(size, Image.Resampling.NEAREST)


def mask_overlay(image: Image.Image, masks: NDArray[np.bool_]) -> Image.Image:
    """Return ``image`` with each of the masks ``(concepts, h, w)`` tinted in a colour of its own."""
    tinted = image.convert("RGB")
    for index, mask in enumerate(masks):
        colour = Image.new("RGB", image.size, f"#{MASK_COLOURS[index % len(MASK_COLOURS)]}")
        strength = mask_as_image(mask, image.size).point(lambda value: value * 45 // 100)
        tinted.paste(colour, mask=strength)
    return tinted
