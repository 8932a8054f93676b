"""Masks grown, smoothed and filled, compared with definitions that are slow and plain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from concept_conductor import Layout
from concept_conductor.errors import ConductorError
from concept_conductor.layouts.mask_edit import MaskEdit, filled, grown, smoothed


@st.composite
def shapes(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    share = draw(st.floats(0.05, 0.95))
    return np.random.default_rng(draw(st.integers(0, 999))).random((height, width)) < share


def disc(distance: float) -> np.ndarray:
    reach = int(distance)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x**2 + y**2 <= distance**2


@given(shapes(), st.floats(0, 9))
@settings(max_examples=60, deadline=None)
def test_growing_is_dilation_by_a_disc_and_shrinking_its_counterpart(mask: np.ndarray, distance: float) -> None:
    assert np.array_equal(grown(mask, distance), ndimage.binary_dilation(mask, disc(distance)))
    assert np.array_equal(grown(mask, -distance), ndimage.binary_erosion(mask, disc(distance), border_value=1))


def flooded(mask: np.ndarray) -> np.ndarray:
    """All that is open and can be reached from the edge by steps to the four sides, square by square."""
    open_ = np.pad(~mask, 1, constant_values=True)
    reached, to_visit = np.zeros_like(open_), [(0, 0)]
    while to_visit:
        y, x = to_visit.pop()
        if 0 <= y < open_.shape[0] and 0 <= x < open_.shape[1] and open_[y, x] and not reached[y, x]:
            reached[y, x] = True
            to_visit += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return reached[1:-1, 1:-1]


@given(shapes())
@settings(max_examples=60, deadline=None)
def test_filling_closes_what_the_edge_does_not_reach(mask: np.ndarray) -> None:
    assert np.array_equal(filled(mask), ~flooded(mask))


def test_a_spiral_is_no_hole() -> None:
    spiral = np.zeros((15, 15), dtype=bool)
    for ring in range(0, 7, 2):
        spiral[ring : 15 - ring, ring] = spiral[ring, ring : 15 - ring] = True
        spiral[ring : 15 - ring, 14 - ring] = spiral[14 - ring, ring : 15 - ring] = True
        spiral[ring + 1, ring] = False
    assert np.array_equal(filled(spiral), ~flooded(spiral))
    assert not filled(spiral)[1, 1]


def test_smoothing_takes_specks_and_cracks_and_keeps_the_rest() -> None:
    mask = np.zeros((60, 60), dtype=bool)
    mask[20:60, 10:50] = True
    rough = mask.copy()
    rough[40, 10:50] = False  # a crack
    rough[5, 5] = True  # a speck
    result = smoothed(rough, 3)
    assert not result[5, 5] and result[40, 30]
    assert (result & mask).sum() / (result | mask).sum() > 0.95
    assert result[59, 30]  # the image's edge is not rounded off


def test_masks_do_not_grow_into_each_other_and_keep_what_is_theirs() -> None:
    left, right = np.zeros((20, 20), dtype=bool), np.zeros((20, 20), dtype=bool)
    left[:, 2:8], right[:, 9:15] = True, True
    one, other = MaskEdit(grow=4).apply([left, right])
    assert not (one & right).any() and not (other & left).any()
    assert one[:, :9].all() and other[:, 8:19].all()


def test_large_masks_are_edited_at_a_smaller_size() -> None:
    mask = np.zeros((2000, 3000), dtype=bool)
    mask[500:1500, 1000:2000] = True
    (result,) = MaskEdit(grow=100, fill=True).apply([mask])
    assert abs(int(np.flatnonzero(result.any(0))[0]) - 900) <= 6
    assert abs(int(np.flatnonzero(result.any(1))[-1]) - 1599) <= 6


def test_nothing_left_is_said() -> None:
    with pytest.raises(ConductorError, match="nothing is left of mask 2"):
        MaskEdit(grow=-3).apply([np.ones((9, 9), dtype=bool), np.eye(9, dtype=bool)])


def test_a_layouts_masks_are_edited_in_pixels_of_its_image() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[12:20, 12:20] = True
    layout = Layout(Image.new("RGB", (64, 64)), "a dog", masks=[mask], edit=MaskEdit(grow=4))
    (exact,) = layout.exact_masks() or ()
    assert exact.shape == (64, 64)
    assert np.flatnonzero(exact.any(0)).tolist() == list(range(20, 44))
