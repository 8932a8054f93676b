"""Images and masks between files, Pillow, arrays and tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_conductor.errors import ConductorError
from concept_conductor.io.image_modes import to_grey, to_layer, to_rgb
from concept_conductor.io.images import load_image, load_layer, load_mask

#: An image as users have it: of Pillow, a file, or an array ``(h, w)``, ``(h, w, 3)`` or ``(h, w, 4)``.
ImageLike = Image.Image | str | os.PathLike[str] | np.ndarray | Tensor
#: A mask as users have it: an image, a file, or an array ``(h, w)``: bool, 0..255 in whole numbers, or 0..1 in others.
MaskLike = ImageLike

SLACK = 1e-3
"""By how much floating-point numbers may miss 0..1, as they do after resampling in half precision."""


def open_image(image: ImageLike, name: str = "the image") -> Image.Image:
    """Return a user's image as RGB, upright, as :func:`.load_image` reads one.

    Args:
        image: a Pillow image, a file, or an array of bytes, or of numbers in 0..1: ``(h, w)``, ``(h, w, 3)`` or
            ``(h, w, 4)``.
        name: for messages.

    Raises:
        ConductorError: it is none of these, its numbers are in another range, or its file cannot be used.
    """
    return _opened(image, name, load_image, to_rgb)


def open_mask(mask: MaskLike, name: str = "the mask") -> Image.Image:
    """Return a user's mask as L, white inside, as :func:`.load_mask` reads one.

    Args:
        mask: a Pillow image, a file, or an array ``(h, w)``: bool, whole numbers in 0..255, or others in 0..1.
        name: for messages.

    Raises:
        ConductorError: as for :func:`open_image`.
    """
    if isinstance(mask, np.ndarray | Tensor) and mask.ndim != 2:
        raise ConductorError(f"{name} must be an array (h, w), but its shape is {tuple(mask.shape)}")
    return _opened(mask, name, load_mask, to_grey)


def open_layer(image: ImageLike, name: str = "the image") -> Image.Image:
    """Return a user's image with its transparency, as :func:`.load_layer` reads one; see :func:`open_image`.

    Raises:
        ConductorError: as for :func:`open_image`.
    """
    return _opened(image, name, load_layer, to_layer)


def _opened(
    image: ImageLike,
    name: str,
    load: Callable[[str | os.PathLike[str]], Image.Image],
    convert: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    if isinstance(image, str | os.PathLike):
        return load(image)
    if isinstance(image, np.ndarray | Tensor):
        image = _array_image(image, name)
    if not isinstance(image, Image.Image):
        raise ConductorError(
            f"{name} must be a PIL image, the path of a file, or an array, but it is of type {type(image).__name__}"
        )
    try:
        image.load()
    except Exception as error:  # its file is damaged, or closed by now; Pillow has all kinds of errors for that
        raise ConductorError(
            f"{name} cannot be decoded ({error}); give its path, or open it with load_image"
        ) from error
    try:
        return convert(image)
    except ConductorError as error:
        raise ConductorError(f"{name} {error}") from error


def _array_image(values: np.ndarray | Tensor, name: str) -> Image.Image:
    """An image of an array's 8-bit or 0..1 numbers.

    Raises:
        ConductorError: another shape or range.
    """
    if isinstance(values, Tensor):
        values = (values.float() if values.is_floating_point() else values).detach().cpu().numpy()
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (3, 4)) or not values.size:
        raise ConductorError(f"{name} must be an array (h, w) or (h, w, 3 or 4), but its shape is {values.shape}")
    if values.dtype == bool:
        return Image.fromarray(values.astype(np.uint8) * 255)
    if not np.issubdtype(values.dtype, np.integer) and not np.issubdtype(values.dtype, np.floating):
        raise ConductorError(f"{name} must hold bool, uint8 or float numbers, but it holds {values.dtype}")
    least, most = float(values.min()), float(values.max())  # NaN if any is
    if np.issubdtype(values.dtype, np.floating):
        if not (least >= -SLACK and most <= 1 + SLACK):
            raise ConductorError(
                f"{name} holds {values.dtype} numbers from {least:g} to {most:g}; expected 0 to 1, or uint8"
            )
        return Image.fromarray((values.clip(0, 1).astype(np.float32) * 255).round().astype(np.uint8))
    if least < 0 or most > 255 or most == 1:
        raise ConductorError(
            f"{name} holds {values.dtype} numbers from {least:g} to {most:g}; expected 0 to 255, or bool for a mask of "
            "0 and 1"
        )
    return Image.fromarray(values.astype(np.uint8))


def mask_pixels(mask: MaskLike, size: tuple[int, int]) -> Tensor:
    """Return a user's mask at ``size`` (width, height) as a tensor ``(H, W)`` of bytes, 255 inside."""
    return torch.from_numpy(np.array(open_mask(mask).resize(size)))


def image_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """Return an image at ``size`` (width, height) as a tensor ``(1, 3, H, W)`` in -1..1."""
    return to_pixels(image.convert("RGB").resize(size))[None]


def to_pixels(image: Image.Image) -> Tensor:
    """Return an RGB image as a tensor ``(3, h, w)`` in -1..1."""
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Return a tensor ``(n, 3, h, w)`` in 0..1 as RGB images."""
    arrays = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array) for array in arrays]


def to_floats(images: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Return RGB images of one size as an array ``(n, h, w, 3)`` in 0..1."""
    return np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])


def mask_iou(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks ``(h, w)``; 0 where both are empty."""
    return float((mask & other).sum() / max(1, (mask | other).sum()))
