"""Losses, augmentation and captions, each on its own."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.training.augmentation import canvas, place, place_subject
from concept_conductor.training.captions import TEMPLATES, varied, with_placeholders
from concept_conductor.training.config import Augmentation
from concept_conductor.training.dataset import Example
from concept_conductor.training.losses import attention_loss, masked_loss, target


def test_the_masked_loss_has_the_published_scale() -> None:
    error = torch.randn(3, 4, 8, 8)
    everywhere = torch.ones(3, 1, 8, 8)
    assert torch.allclose(masked_loss(error, torch.zeros_like(error), everywhere), 4 * error.square().mean())
    left = everywhere.clone()
    left[..., 4:] = 0
    expected = 4 * error[..., :4].square().mean()
    assert torch.allclose(masked_loss(error, torch.zeros_like(error), left), expected)


def test_each_sample_weighs_the_same_whatever_its_mask() -> None:
    error = torch.ones(2, 4, 4, 4)
    error[1] *= 2
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, 0, 0] = 1
    mask[1] = 1
    assert masked_loss(error, torch.zeros_like(error), mask) == pytest.approx((4 * 1 + 4 * 4) / 2)


def test_targets_follow_the_checkpoint() -> None:
    latents, noise, t = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([10, 900])
    assert target(DDIMScheduler(), latents, noise, t) is noise
    velocity = DDIMScheduler(prediction_type="v_prediction")
    alpha = velocity.alphas_cumprod[t].view(-1, 1, 1, 1)
    expected = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    assert torch.allclose(target(velocity, latents, noise, t), expected, atol=1e-6)
    with pytest.raises(ConductorError, match="sample"):
        target(DDIMScheduler(prediction_type="sample"), latents, noise, t)


def test_attention_on_the_subject_costs_nothing() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    inside = mask.expand(-1, 2, -1, -1)
    assert attention_loss({(8, 8): [inside]}, mask) == 0
    assert attention_loss({(8, 8): [inside]}, mask, full_identity=True) == 0
    outside = 1 - inside
    assert attention_loss({(8, 8): [outside]}, mask) == pytest.approx(2)
    assert attention_loss({(8, 8): [outside], (4, 4): [torch.ones(2, 2, 4, 4)]}, mask) == pytest.approx(4)
    assert attention_loss({(8, 8): [outside, inside]}, mask) == pytest.approx(2)  # means are divided by their maximum


def test_samples_without_background_are_left_out() -> None:
    mask = torch.ones(2, 1, 8, 8)
    maps = {(8, 8): [torch.rand(2, 2, 8, 8)]}
    assert attention_loss(maps, mask) == 0
    mask[1, ..., :4] = 0
    normal = maps[8, 8][0] / maps[8, 8][0].amax((0, 2, 3), keepdim=True)
    assert attention_loss(maps, mask) == pytest.approx(float(normal[1, :, :, :4].mean((1, 2)).sum()), rel=1e-5)


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
    assert torch.equal(pixels, torch.from_numpy(np.array(noise, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1)


def test_padding_is_no_subject() -> None:
    example = Example("a", Image.new("RGB", (100, 50), "white"))
    pixels, mask = canvas(example, place(example.image.size, 64, 0.0, Random(0)), 64)
    assert mask.mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(mask[0] == 0, pixels[0] == -1)


def test_square_images_have_few_placings() -> None:
    assert len({place((64, 64), 64, 0.5, Random(seed)) for seed in range(200)}) <= 8


def test_captions() -> None:
    assert len(TEMPLATES["objects"]) == 27
    assert len(TEMPLATES["people"]) == 19
    assert with_placeholders("a <TOK> here", ["<a>", "<b>"]) == "a <a> <b> here"
    assert varied("a <TOK>, x", ["photo of {}"], True, Random(0)) == "photo of a <TOK>, x"
    assert varied(None, ["the {}"], True, Random(0)) == "the <TOK>"
    assert varied(None, ["{}"], True, Random(0)) == "photo of a <TOK>"
    texts = {varied("a <TOK>, x, y", ["{}"], True, Random(seed)) for seed in range(20)}
    assert texts == {"a <TOK>, x, y", "a <TOK>, y, x"}
    assert {varied("a <TOK>, x, y", ["{}"], False, Random(seed)) for seed in range(20)} == {"a <TOK>, x, y"}
