"""What a training minimises: the masked error, and attention off the subject."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from concept_conductor.errors import ConductorError
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
