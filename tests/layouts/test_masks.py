"""Masks as users give them, checked against their image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io.image_modes import TURN
from concept_conductor.layouts.masks import checked_mask, match_proportions


def test_masks_follow_an_image_that_was_turned() -> None:
    """A phone stores its images lying; a mask may be drawn on either."""
    drawn = Image.fromarray(np.arange(8, dtype=np.uint8).reshape(2, 4))
    image = Image.new("RGB", (2, 4))
    image.info[TURN] = Image.Transpose.ROTATE_270
    turned = match_proportions(drawn, image, "mask 1")
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(drawn), -1))
    assert match_proportions(turned, image, "mask 1") is turned
    with pytest.raises(ConductorError, match="mask 1 has 4x2 pixels, but the image 2x4: other proportions"):
        match_proportions(drawn, Image.new("RGB", (2, 4)), "mask 1")


def test_the_exact_size_decides_where_either_would_do() -> None:
    image = Image.new("RGB", (100, 101))
    image.info[TURN] = Image.Transpose.ROTATE_270
    stored, upright = Image.new("L", (101, 100)), Image.new("L", (100, 101))
    assert match_proportions(stored, image, "mask").size == (100, 101)
    assert match_proportions(upright, image, "mask") is upright


def test_masks_stay_what_they_are_where_nothing_is_to_be_done(tmp_path: Path) -> None:
    image, mask = Image.new("RGB", (6, 4)), np.ones((2, 3), bool)
    assert checked_mask(mask, image, "mask 1") is mask
    Image.fromarray(mask).save(tmp_path / "a.png")
    opened = checked_mask(tmp_path / "a.png", image, "mask 1")
    assert isinstance(opened, Image.Image) and np.asarray(opened).min() == 255
    with pytest.raises(ConductorError, match="mask 1 has 2x3 pixels, but the image 6x4"):
        checked_mask(mask.T, image, "mask 1")
