"""How an image is placed on the training canvas.

The published recipe: the short side brought to the resolution; half the time a crop, that of a portrait keeping the
top; the long side fitted to the resolution; a random place on a black canvas; the mask alike. No mirroring. Without
padding the crop is always the largest square, which fills the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from concept_conductor.io.tensors import to_pixels
from concept_conductor.training.config import Augmentation
from concept_conductor.training.dataset import Example


@dataclass(frozen=True)
class Placing:
    """Where an image goes; equal placings give equal images, so that what is made of them can be kept.

    Attributes:
        box: the part of the image that is used, ``(left, top, right, bottom)`` in its own pixels.
        size: width and height on the canvas.
        offset: of the upper left corner, from that of the canvas.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    offset: tuple[int, int]


def fill(size: tuple[int, int], resolution: int, subject: tuple[int, int, int, int], random: Random) -> Placing:
    """Draw which largest square of an image of ``size`` (width, height) fills the canvas.

    Args:
        subject: ``(left, top, right, bottom)`` of what the square must show some of.
    """
    side = min(size)
    left, top = (
        random.randint(max(0, low - side + 1), min(length - side, high - 1))
        for length, low, high in zip(size, subject[:2], subject[2:])
    )
    return Placing((left, top, left + side, top + side), (resolution, resolution), (0, 0))


def place(size: tuple[int, int], resolution: int, crop: float, random: Random) -> Placing:
    """Draw where an image of ``size`` (width, height) goes on a square canvas.

    Args:
        resolution: side of the canvas.
        crop: how often to crop.
        random: decides.
    """
    width, height = size
    scale = resolution / min(size)
    w, h = max(resolution, round(width * scale)), max(resolution, round(height * scale))  # short side at resolution
    left = top = 0
    if random.random() < crop:
        if h > w:
            h = w + random.randint(0, h - w)  # a portrait keeps the top
        else:
            left, w = random.randint(0, w - resolution), resolution
    box = (left / scale, top / scale, min(width, (left + w) / scale), min(height, (top + h) / scale))
    # the short side to one less than the canvas, so that even a square moves a little, unless the long side is longer
    fit = min((resolution - 1) / min(w, h), resolution / max(w, h))
    placed = (max(1, min(resolution, round(w * fit))), max(1, min(resolution, round(h * fit))))
    offset = (random.randint(0, resolution - placed[0]), random.randint(0, resolution - placed[1]))
    return Placing(box, placed, offset)


def place_subject(example: Example, resolution: int, settings: Augmentation, random: Random) -> Placing:
    """Draw a placing that keeps at least some of the subject in the image."""
    if not settings.padding:
        subject = None if example.mask is None else example.mask.getbbox()
        return fill(example.image.size, resolution, subject or (0, 0, *example.image.size), random)
    placing = place(example.image.size, resolution, settings.crop, random)
    if example.mask is not None and _part(example.mask, placing, Image.Resampling.NEAREST).getbbox() is None:
        return place(example.image.size, resolution, 0.0, random)
    return placing


def canvas(example: Example, placing: Placing, resolution: int) -> tuple[Tensor, Tensor]:
    """Draw the training image.

    Returns:
        pixels ``(3, H, W)`` in -1..1 and the mask ``(1, H, W)`` of 0 and 1: the subject, or without a mask all that
        is not padding.
    """
    image = Image.new("RGB", (resolution, resolution))
    image.paste(_part(example.image, placing, Image.Resampling.BILINEAR), placing.offset)
    mask = Image.new("L", (resolution, resolution))
    outline = example.mask or Image.new("L", example.image.size, 255)
    mask.paste(_part(outline, placing, Image.Resampling.NEAREST), placing.offset)
    return to_pixels(image), torch.from_numpy(np.array(mask) > 127)[None].float()


def _part(image: Image.Image, placing: Placing, resample: Image.Resampling) -> Image.Image:
    return image.resize(placing.size, resample, box=placing.box)
