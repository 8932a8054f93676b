"""Layout alignment, Eq. 1 and 2, against the gradient of the loss written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from concept_conductor import Alignment, ConceptConductorPipeline
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.masks import Masks
from concept_conductor.method.alignment import align, path_weights
from concept_conductor.method.multipath import Multipath, multipath

NOW = torch.tensor(500)


@pytest.mark.parametrize("paths_per_forward", [None, 1])
def test_alignment_of_the_foreground_only(
    tiny_pipe: ConceptConductorPipeline,
    updates: list[Any],
    text: Conditioning,
    latents: Tensor,
    masks: Masks,
    paths_per_forward: int | None,
) -> None:
    """The mean runs over the tokens inside any mask; those outside change nothing."""
    settings = Alignment(step_size=1e3, concept_weight=1.0, foreground_only=True)
    with multipath(tiny_pipe.backbone, updates, paths_per_forward) as paths, torch.no_grad():
        here = paths.layout_keys(latents, NOW, text, slice(0, 1))[0, 0]
        reference = here + torch.randn(here.shape, generator=torch.Generator().manual_seed(1))
        foreground = masks.tokens(len(reference)).any(1)
        aligned, _ = align(paths, latents, NOW, reference, text, settings, masks)
        elsewhere = reference + 9 * (~foreground.any(0))[:, None]
        same, _ = align(paths, latents, NOW, elsewhere, text, settings, masks)
        expected = latents - settings.step_size * gradient(paths, latents, text, reference, foreground)
    assert torch.allclose(aligned - latents, expected - latents, rtol=1e-3, atol=1e-5)
    assert torch.allclose(aligned, same, atol=1e-5)
    assert not torch.allclose(aligned, latents, atol=1e-3)


def gradient(paths: Multipath, latents: Tensor, text: Conditioning, reference: Tensor, foreground: Tensor) -> Tensor:
    """Of the loss written out path by path and image by image."""
    with torch.enable_grad():
        leaf, loss = latents.detach().requires_grad_(), torch.zeros(())
        for path, weight in enumerate((1.0, 0.5, 0.5)):
            (keys,) = paths.layout_keys(leaf, NOW, text, slice(path, path + 1))
            for key, inside in zip(keys, foreground, strict=True):
                loss = loss + weight * (key[inside] - reference[inside]).square().mean()
        return torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("paths_per_forward", [None, 1])
def test_alignment_of_the_whole_image_lowers_the_loss_it_reports(
    tiny_pipe: ConceptConductorPipeline,
    updates: list[Any],
    text: Conditioning,
    latents: Tensor,
    masks: Masks,
    paths_per_forward: int | None,
) -> None:
    settings = Alignment(step_size=10.0, concept_weight=1.0)
    with multipath(tiny_pipe.backbone, updates, paths_per_forward) as paths, torch.no_grad():
        reference = paths.layout_keys(latents, NOW, text, slice(0, 1))[0, 0].roll(5, 0)
        everywhere = torch.ones(2, len(reference), dtype=torch.bool)
        aligned, before = align(paths, latents, NOW, reference, text, settings, masks)
        _, after = align(paths, aligned, NOW, reference, text, settings, masks)
        expected = latents - settings.step_size * gradient(paths, latents, text, reference, everywhere)
    assert before.shape == (3,)
    assert torch.allclose(aligned - latents, expected - latents, rtol=1e-3, atol=1e-5)
    assert after.sum() < before.sum()


def test_weights_of_the_paths() -> None:
    assert path_weights(4, 1.5).tolist() == [1.0, 0.5, 0.5, 0.5]
    assert path_weights(1, 1.0).tolist() == [1.0]
