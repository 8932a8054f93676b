"""Images of other proportions than a run's are cropped or padded, and all that is given in their pixels goes along."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.layouts.fit import (
    Fit,
    describe_fit,
    fit_box,
    fit_image,
    fit_mask,
    fit_point,
    same_proportions,
    window_of,
)


def numbered(width: int, height: int) -> Image.Image:
    """Each pixel says in which column and row it is."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, rows * 0], 2).astype(np.uint8))


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ((512, 512), (64, 64), True),
        ((1000, 667), (96, 64), True),  # 666.67, rounded
        ((1000, 667), (64, 43), True),
        ((1000, 667), (64, 44), False),
        ((192, 96), (96, 192), False),
        ((512, 512), (512, 510), False),
        ((512, 512), (512, 511), True),
    ],
)
def test_proportions_agree_to_a_pixel(one: tuple[int, int], other: tuple[int, int], alike: bool) -> None:
    assert same_proportions(one, other) == same_proportions(other, one) == alike


@pytest.mark.parametrize(
    ("source", "size", "fit", "window"),
    [
        ((96, 64), (64, 64), "crop", (16, 0, 80, 64)),
        ((96, 64), (64, 64), "pad", (0, -16, 96, 80)),
        ((64, 96), (512, 512), "crop", (0, 16, 64, 80)),
        ((64, 96), (512, 512), "pad", (-16, 0, 80, 96)),
        ((100, 100), (768, 512), "crop", (0, 16, 100, 83)),
        ((1000, 667), (768, 512), "crop", (0, 0, 1000, 667)),
        ((1, 9), (64, 64), "crop", (0, 4, 1, 5)),
    ],
)
def test_windows(source: tuple[int, int], size: tuple[int, int], fit: Fit, window: tuple[int, ...]) -> None:
    assert window_of(source, size, fit) == window


def test_a_cropped_image_is_its_middle_and_a_padded_ones_edges_go_on() -> None:
    image = numbered(96, 64)
    cropped = fit_image(image, (16, 0, 80, 64))
    assert cropped.size == (64, 64)
    assert cropped.getpixel((0, 0)) == (16, 0, 0) and cropped.getpixel((63, 63)) == (79, 63, 0)
    padded = fit_image(image, (0, -16, 96, 80))
    assert padded.size == (96, 96)
    assert np.array_equal(np.asarray(padded)[16:80], np.asarray(image))
    assert padded.getpixel((5, 0)) == (5, 0, 0) and padded.getpixel((5, 95)) == (5, 63, 0)
    mask = np.asarray(fit_mask(Image.new("L", (96, 64), 255), (96, 64), (0, -16, 96, 80)))
    assert mask[16:80].min() == 255 and mask[:16].max() == mask[80:].max() == 0
    small = Image.fromarray(np.array([[0, 255, 0], [0, 255, 0]], np.uint8))
    assert fit_mask(small, (96, 64), (16, 0, 80, 64)).size == (64, 64)
    assert (np.asarray(fit_mask(small, (96, 64), (16, 0, 80, 64)))[32] > 127).sum() == pytest.approx(32, abs=2)


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from(["crop", "pad"]),
)
@settings(max_examples=100, deadline=None)
def test_points_stay_on_what_they_point_at(source: tuple[int, int], size: tuple[int, int], fit: Fit) -> None:
    image = numbered(*source)
    window = window_of(source, size, fit)
    fitted = fit_image(image, window)
    assert fitted.size == fit_mask(Image.new("L", source), source, window).size
    assert same_proportions(fitted.size, size) or 1 in fitted.size
    x, y = (source[0] - 1) // 2, (source[1] - 1) // 2
    assert fitted.getpixel(fit_point((x, y), window)) == (x, y, 0)
    left, top, right, bottom = fit_box((0, 0, *source), window)
    assert 0 <= left < right <= fitted.width and 0 <= top < bottom <= fitted.height
    if fit == "pad":
        assert (right - left, bottom - top) == source


def test_padding_has_an_end() -> None:
    with pytest.raises(ConductorError, match="an image of 60000x1 pixels padded to 60000x60000 would be larger"):
        window_of((60_000, 1), (64, 64), "pad")


def test_what_was_done_is_one_line() -> None:
    assert describe_fit((96, 64), (16, 0, 80, 64), (512, 512)) == (
        "is cropped from 96x64 pixels to its middle 64x64, the proportions of the run's 512x512; fit: pad keeps all of "
        "it instead"
    )
    assert describe_fit((96, 64), (0, -16, 96, 80), (512, 512)) == (
        "is padded from 96x64 pixels to 96x96, the proportions of the run's 512x512; fit: crop cuts it off instead"
    )
