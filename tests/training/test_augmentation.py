"""Where an image of the subject is placed on the canvas, and its mask with it."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_conductor.training.augmentation import canvas, place, place_subject
from concept_conductor.training.config import Augmentation
from concept_conductor.training.dataset import Example


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    resolution=st.sampled_from([8, 64, 512]),
    crop=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_a_placing_stays_in_image_and_canvas(width: int, height: int, resolution: int, crop: float, seed: int) -> None:
    placing = place((width, height), resolution, crop, Random(seed))
    left, top, right, bottom = placing.box
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    for offset, size in zip(placing.offset, placing.size, strict=True):
        assert 0 <= offset <= offset + size <= resolution
    assert max(placing.size) >= resolution - 1
    if crop and height > width:
        assert top == 0  # a portrait keeps the top
    if not crop:
        assert placing.box == pytest.approx((0, 0, width, height), abs=max(width, height) / resolution)


def test_pixels_and_mask_move_together() -> None:
    image, mask = Image.new("RGB", (90, 60)), Image.new("L", (90, 60))
    image.paste("white", (30, 10, 50, 40))
    mask.paste(255, (30, 10, 50, 40))
    example = Example("a", image, mask)
    for seed in range(20):
        pixels, subject = canvas(example, place_subject(example, 64, Augmentation(), Random(seed)), 64)
        assert pixels.shape == (3, 64, 64)
        assert subject.shape == (1, 64, 64)
        assert subject.any()
        assert ((pixels[0] > 0).float() - subject[0]).abs().mean() < 0.03


@given(width=st.integers(20, 200), height=st.integers(20, 200), middle=st.floats(0, 1), seed=st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_without_padding_a_square_with_some_of_the_subject_fills_the_canvas(
    width: int, height: int, middle: float, seed: int
) -> None:
    mask = Image.new("L", (width, height))
    left, top = int(middle * (width - 10)), int(middle * (height - 10))
    mask.paste(255, (left, top, left + 10, top + 10))
    example = Example("a", Image.new("RGB", (width, height), "white"), mask)
    placing = place_subject(example, 64, Augmentation(padding=False), Random(seed))
    pixels, subject = canvas(example, placing, 64)
    assert (pixels == 1).all()
    assert subject.any() or min(width, height) > 64  # where it is scaled down, a pixel of it may get lost


def test_an_image_of_the_models_size_is_not_scaled_without_padding() -> None:
    noise = Image.effect_noise((64, 64), 100).convert("RGB")
    example = Example("a", noise)
    pixels, _ = canvas(example, place_subject(example, 64, Augmentation(padding=False), Random(0)), 64)
    expected = torch.from_numpy(np.array(noise, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-5)  # scaled noise would be off by tenths


def test_padding_is_no_subject() -> None:
    example = Example("a", Image.new("RGB", (100, 50), "white"))
    pixels, mask = canvas(example, place(example.image.size, 64, 0.0, Random(0)), 64)
    assert mask.mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(mask[0] == 0, pixels[0] < 0)


def test_square_images_have_few_placings() -> None:
    assert len({place((64, 64), 64, 0.5, Random(seed)) for seed in range(200)}) <= 8
