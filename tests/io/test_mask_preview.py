"""Previews: every mask is seen in its colour, every name is written, nothing lies on another's name."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from concept_conductor.io.drawing import MASK_COLOURS
from concept_conductor.io.mask_preview import layout_preview


def halves(size: int) -> list[np.ndarray]:
    left, right = np.zeros((size, size), dtype=bool), np.zeros((size, size), dtype=bool)
    left[size // 4 : size // 2, : size // 2], right[size // 2 :, size // 2 :] = True, True
    return [left, right]


@pytest.mark.parametrize(("size", "expected"), [(64, 512), (600, 600), (1024, 1024), (3000, 1024)])
def test_small_images_grow_and_large_ones_shrink(size: int, expected: int) -> None:
    preview = layout_preview(Image.new("RGB", (size, size), "grey"), halves(size), ["dog", "cat"])
    assert preview.size == (expected, expected)


def test_masks_are_tinted_in_their_own_colours_and_the_rest_is_left() -> None:
    preview = np.asarray(layout_preview(Image.new("RGB", (64, 64), "black"), halves(64), ["dog", "cat"])).astype(int)
    for point, colour in (((180, 100), MASK_COLOURS[0]), ((400, 400), MASK_COLOURS[1])):
        expected = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)])
        assert np.abs(preview[point] - 0.45 * expected).max() < 4
    assert not preview[450, 50].any()


def test_names_are_on_plates_of_their_masks_colour_apart_from_each_other() -> None:
    both = [np.ones((64, 64), dtype=bool)] * 2  # at one place
    preview = np.asarray(layout_preview(Image.new("RGB", (64, 64), "black"), both, ["dog", "cat" * 40]))
    rows = []
    for colour in MASK_COLOURS[:2]:
        plain = np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)])
        here = (preview[8:-8, 8:-8] == plain).all(-1)
        assert here.sum() > 300
        rows.append(np.flatnonzero(here.any(1)))
    assert not set(rows[0]) & set(rows[1])


def test_a_layout_without_masks_is_the_image() -> None:
    assert layout_preview(Image.new("RGB", (600, 600), "red"), [], []) == Image.new("RGB", (600, 600), "red")
