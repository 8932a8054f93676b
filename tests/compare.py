"""How far two computations lie apart. None is compared bit by bit: processors, threads and batches round differently.

Only what is copied (file round trips, frozen weights, pixels outside of a mask) is compared exactly, by its own tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

ROUNDING = 1e-5
"""Relative; a short run of the tiny models measures up to 1e-6, any real change of what is computed 1e-4 or more."""


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over the norm of ``theirs``."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def assert_close(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], atol: float) -> None:
    """Both hold tensors under the same names, no number further apart than ``atol``."""
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


def mask_iou(ours: ArrayLike | Tensor, theirs: ArrayLike | Tensor) -> float:
    """Intersection over union of all that two boolean masks, or stacks of them, hold; 1 where both are empty."""
    one, other = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    assert one.shape == other.shape
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0


def assert_same_image(ours: Image.Image | np.ndarray, theirs: Image.Image | np.ndarray, share: float = 0.01) -> None:
    """The same 8-bit image, but that a ``share`` of its numbers may be rounded to the next of the 256 levels."""
    one, other = (np.asarray(image).astype(int) for image in (ours, theirs))
    assert one.shape == other.shape
    apart = np.abs(one - other)
    assert apart.max() <= 1 and (apart > 0).mean() <= share, f"up to {apart.max()}, {(apart > 0).mean():.1%} of them"
