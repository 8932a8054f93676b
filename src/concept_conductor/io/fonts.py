"""Text on images, as it is: on one line, cut where it is too long, and never read as a language."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

from concept_conductor.io.printable import one_line


@cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's own font."""
    return ImageFont.load_default(size)


def fitting(text: str, width: int, size: int) -> str:
    """Return ``text`` as one line, cut with dots where it is wider than ``width`` pixels.

    Line ends and what cannot be shown become escapes.
    """
    text = one_line(text[: max(1, width)])  # a character takes a pixel at least
    if font(size).getlength(text) <= width:
        return text
    while text and font(size).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
