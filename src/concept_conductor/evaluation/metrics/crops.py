"""A segment as an image of its own, for the embedders."""

from __future__ import annotations

from math import ceil, floor

from PIL import Image

from concept_conductor.grounding.grounder import Segment

NEUTRAL = (255, 255, 255)
"""What stands where the object does not: white. (The judge takes grey around a cut-out for part of a scene.)"""


def cut_out(image: Image.Image, segment: Segment) -> Image.Image:
    """Cut the segment's pixels out, cropped to its box and centred on a neutral square.

    Square, because the embedders' preprocessing cuts what is longer than wide. Where the mask leaves nothing in the
    box, the box is taken whole.
    """
    x0, y0, x1, y1 = segment.box
    box = (max(0, floor(x0)), max(0, floor(y0)), min(image.width, ceil(x1)), min(image.height, ceil(y1)))
    mask = Image.fromarray(segment.mask).crop(box)
    crop = image.convert("RGB").crop(box)
    side = max(crop.size)
    square = Image.new("RGB", (side, side), NEUTRAL)
    square.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2), mask if mask.getbbox() else None)
    return square
