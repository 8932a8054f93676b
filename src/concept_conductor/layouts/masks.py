"""Masks as users give them, checked against the image that they were drawn on."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image
from torch import Tensor

from concept_conductor.errors import ConductorError
from concept_conductor.io.image_modes import TURN
from concept_conductor.io.tensors import MaskLike, open_mask
from concept_conductor.layouts.fit import same_proportions


def checked_mask(mask: MaskLike, image: Image.Image, name: str) -> Image.Image | np.ndarray | Tensor:
    """Return a user's mask as it is; opened if it is a file, turned as :func:`match_proportions` turns it.

    Raises:
        ConductorError: it cannot be read, holds numbers of another range, or has other proportions than its image.
    """
    opened = open_mask(mask, name)
    matched = match_proportions(opened, image, name)
    return matched if matched is not opened or isinstance(mask, str | os.PathLike) else mask


def match_proportions(mask: Image.Image, image: Image.Image, name: str) -> Image.Image:
    """Return a mask as :func:`turn_with` does, checked.

    Args:
        mask: L, of any size.
        image: what it was drawn on.
        name: the mask's, for messages.

    Raises:
        ConductorError: the mask has other proportions.
    """
    turned = turn_with(mask, image)
    if not same_proportions(turned.size, image.size):
        raise ConductorError(
            f"{name} has {mask.width}x{mask.height} pixels, but the image {image.width}x{image.height}: other "
            "proportions; draw it on the image itself"
        )
    return turned


def turn_with(mask: Image.Image, image: Image.Image) -> Image.Image:
    """Return a mask turned as its image was, where that and not the mask itself has the image's proportions.

    Args:
        mask: L, of any size.
        image: as it was read: one that its EXIF data turned by 90 degrees has masks of either.
    """
    turn = image.info.get(TURN)
    if turn is None:
        return mask
    turned = mask.transpose(turn)
    # an image that is nearly square could have either: its exact size decides
    if image.size in (mask.size, turned.size):
        return mask if mask.size == image.size else turned
    return mask if same_proportions(mask.size, image.size) else turned
