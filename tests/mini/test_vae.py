"""The variational autoencoder of the embedded model."""

import pytest
import torch

from concept_conductor.mini.vae import build, psnr, whiten


def test_whitening_changes_latents_but_no_image():
    torch.manual_seed(0)
    vae = build((8, 8, 8), 32)
    images = torch.rand(16, 3, 32, 32) * 2 - 1
    before = psnr(vae, images)
    whiten(vae, images)
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    assert psnr(vae, images) == pytest.approx(before, abs=1e-3)
