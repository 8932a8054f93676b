"""Bring images of other proportions to a run's: crop them to their middle or pad them, never stretch them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io.image_limits import MAX_PIXELS
from concept_conductor.layouts.boxes import Box, Point

Fit = Literal["crop", "pad"]
Size = tuple[int, int]
"""Width and height in pixels."""

Window = tuple[int, int, int, int]
"""What is kept of an image: left, top, right, bottom in its pixels; beyond its edges where it is padded."""


def same_proportions(one: Size, other: Size) -> bool:
    """Return whether two sizes agree in their proportions, to one pixel of the smaller one."""
    return abs(one[0] * other[1] - one[1] * other[0]) <= max(*one, *other)


def window_of(source: Size, size: Size, fit: Fit) -> Window:
    """Return what of an image of size ``source`` is seen in a run of ``size``: all of it where the proportions agree.

    Raises:
        ConductorError: the padded image would be too large.
    """
    (width, height), (run_width, run_height) = source, size
    if same_proportions(source, size):
        return 0, 0, width, height
    wider = width * run_height > height * run_width
    if wider == (fit == "crop"):
        kept = (max(1, round(height * run_width / run_height)), height)
    else:
        kept = (width, max(1, round(width * run_height / run_width)))
    if kept[0] * kept[1] > MAX_PIXELS:
        raise ConductorError(
            f"an image of {width}x{height} pixels padded to {kept[0]}x{kept[1]} would be larger than the "
            f"{MAX_PIXELS:,} pixels that are held; make it smaller, or let it be cropped (fit='crop')"
        )
    left, top = (width - kept[0]) // 2, (height - kept[1]) // 2
    return left, top, left + kept[0], top + kept[1]


def fit_image(image: Image.Image, window: Window) -> Image.Image:
    """Return what is kept of an image, RGB; where it is padded its edges go on."""
    left, top, right, bottom = window
    inside = image.crop((max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)))
    around = (max(-top, 0), max(bottom - image.height, 0)), (max(-left, 0), max(right - image.width, 0)), (0, 0)
    return Image.fromarray(np.pad(np.asarray(inside), around, mode="edge"))


def fit_mask(mask: Image.Image, source: Size, window: Window) -> Image.Image:
    """Return what is kept of a mask, L, in pixels of its image; where it is padded it is black.

    Args:
        mask: of any size.
        source: width and height of its image.
        window: what is kept of that.
    """
    return mask.resize(source).crop(window)


def fit_point(point: Point, window: Window) -> Point:
    """Return a point's place within what is kept of its image."""
    return point[0] - window[0], point[1] - window[1]


def fit_box(box: Box, window: Window) -> Box:
    """Return what lies of a box within what is kept of its image; it is empty where nothing does."""
    left, top, right, bottom = window
    return (
        max(box[0] - left, 0),
        max(box[1] - top, 0),
        min(box[2] - left, right - left),
        min(box[3] - top, bottom - top),
    )


def describe_fit(source: Size, window: Window, size: Size) -> str:
    """Return what is done to an image of size ``source``: "is cropped from 96x64 pixels to its middle 64x64, ..."."""
    width, height = window[2] - window[0], window[3] - window[1]
    padded = window[0] < 0 or window[1] < 0
    how, other = ("padded", "fit: crop cuts it off") if padded else ("cropped", "fit: pad keeps all of it")
    to = "to" if padded else "to its middle"
    return (
        f"is {how} from {source[0]}x{source[1]} pixels {to} {width}x{height}, the proportions of the run's "
        f"{size[0]}x{size[1]}; {other} instead"
    )
