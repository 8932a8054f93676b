"""Images and masks as users have them, brought to the size of a run."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_conductor.errors import ConductorError
from concept_conductor.io.images import as_mask

#: A mask as users have it: an image, or ``(h, w)`` bool, uint8, or float in 0..1.
MaskLike = Image.Image | np.ndarray | Tensor


def mask_image(mask: MaskLike) -> Image.Image:
    """A user's mask as an image of mode L, white inside.

    Raises:
        ConductorError: an array that is not ``(h, w)``.
    """
    if not isinstance(mask, Image.Image):
        array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
        if array.ndim != 2:
            raise ConductorError(f"a mask array must be (h, w), but its shape is {array.shape}")
        if array.dtype == bool:
            array = array.astype(np.uint8) * 255
        elif np.issubdtype(array.dtype, np.floating):
            array = (np.clip(array.astype(np.float32), 0, 1) * 255).round()
        mask = Image.fromarray(array.astype(np.uint8))
    return as_mask(mask)


def mask_pixels(mask: MaskLike, size: tuple[int, int]) -> Tensor:
    """A user's mask at the size of the run, ``(H, W)`` in 0..255.

    Args:
        size: width and height.
    """
    return torch.from_numpy(np.array(mask_image(mask).resize(size)))


def image_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """An image at the size of the run, ``(1, 3, H, W)`` in -1..1.

    Args:
        size: width and height.
    """
    array = np.array(image.convert("RGB").resize(size), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1


def mask_iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks ``(h, w)``; 0 where both are empty."""
    return float((mask & other).sum() / max(1, (mask | other).sum()))


def to_uint8(pixels: Tensor) -> np.ndarray:
    """``(n, 3, h, w)`` in 0..1 as ``(n, h, w, 3)`` bytes."""
    array: np.ndarray = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return array


def _as_floats(images: list[Image.Image]) -> np.ndarray:
    """``(n, h, w, 3)`` in 0..1."""
    return np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])
