"""Pixels of every mode that Pillow has, brought to RGB, RGBA or L of 8 bits, upright."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from concept_conductor.errors import ConductorError

TURN = "concept-conductor turn"
"""Key of an image's ``info``: what made it upright, for masks that were drawn on its pixels as they were stored."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations."""
SIDEWAYS = frozenset(TURNS[number] for number in (5, 6, 7, 8))
"""They turn rows into columns."""
FROM_BELOW = frozenset(TURNS[number] for number in (3, 4, 6, 7))
"""The image's lowest row comes first."""

STRIP_PIXELS = 2**20
"""Pixels that are converted at a time: what lies between two modes never takes much memory."""

# largest value of numbers without a depth of their own -> the least that an image in that range is taken to reach
_RANGES = {1: 0.0, 255: 16.0, 65535: 4096.0}
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image upright, RGB, with transparency laid on white.

    Raises:
        ConductorError: it has no pixels, or numbers in no range that is known, in words that follow on its name.
    """
    return _converted(image, "RGB", "white")


def to_grey(image: Image.Image) -> Image.Image:
    """Return the image upright, L, with transparency laid on black.

    Raises:
        ConductorError: as for :func:`to_rgb`.
    """
    return _converted(image, "L", "black")


def to_layer(image: Image.Image) -> Image.Image:
    """Return the image upright, RGBA where it has any transparency, else RGB.

    Raises:
        ConductorError: as for :func:`to_rgb`.
    """
    return _converted(image, "RGBA" if image.has_transparency_data else "RGB", None)


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """Return how its EXIF data or XMP says that the image is to be turned; a damaged tag says nothing."""
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TURNS[image.getexif()[ExifTags.Base.Orientation]]
    return None


def _converted(image: Image.Image, mode: str, background: str | None) -> Image.Image:
    """An upright copy in another mode, without the original's metadata."""
    image.load()
    if not image.width * image.height:
        raise ConductorError("has no pixels")
    full, turn = _largest_value(image), turn_of(image)
    result = Image.new(mode, image.size if turn not in SIDEWAYS else image.size[::-1])
    for top, strip in _strips(image):
        part = _convert(strip, mode, background, full)
        if turn is not None:  # strip by strip, so that there is never a second copy of the whole
            part = part.transpose(turn)
            top = image.height - top - strip.height if turn in FROM_BELOW else top
        result.paste(part, (top, 0) if turn in SIDEWAYS else (0, top))
    turn = image.info.get(TURN) if turn is None else turn
    if turn is not None:
        result.info[TURN] = turn
    return result


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Parts of full width from top to bottom, and where each begins."""
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _convert(image: Image.Image, mode: str, background: str | None, full: int | None) -> Image.Image:
    if full is not None:
        image = _eight_bits(image, full)
    image = image.convert(_PREMULTIPLIED.get(image.mode, image.mode))
    if not image.has_transparency_data:
        return image.convert("RGB").convert(mode)  # Pillow has no way from LAB to L, for one
    image = _with_alpha(image)
    if background is not None:
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image.convert(mode)


def _with_alpha(image: Image.Image) -> Image.Image:
    """RGBA of an image that has transparency in some form."""
    colour = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:  # of 16 bits, of which 8 were read
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return image.convert("RGBA")


def _has_wide_numbers(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _largest_value(image: Image.Image) -> int | None:
    """What stands for white in an image of wide numbers; None for 8 bits.

    Raises:
        ConductorError: numbers that are in no known range.
    """
    if not _has_wide_numbers(image):
        return None
    if image.mode.startswith("I;16") or image.format == "PPM":
        return 65535
    least = most = 0.0
    for _, strip in _strips(image):
        values = np.asarray(strip)
        if not np.isfinite(values).all():
            raise ConductorError("holds numbers that are not finite; expected 0 to 1, 0 to 255 or 0 to 65535")
        least, most = min(least, float(values.min())), max(most, float(values.max()))
    full = next((full for full, reached in _RANGES.items() if reached <= most <= full), None)
    if full is None or least < 0:
        raise ConductorError(
            f"holds numbers from {least:g} to {most:g}; expected 0 to 1, 0 to 255 or 0 to 65535, scale them to one"
        )
    return full


def _eight_bits(image: Image.Image, full: int) -> Image.Image:
    """Wide numbers as L, or LA where one of them stands for transparency."""
    values: NDArray[np.float64] = np.asarray(image).astype(np.float64)
    grey = Image.fromarray((values * (255 / full)).round().astype(np.uint8))
    colour = image.info.get("transparency")
    if not isinstance(colour, int):
        return grey
    return Image.merge("LA", (grey, Image.fromarray((values != colour).astype(np.uint8) * 255)))
