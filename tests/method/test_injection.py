"""Concept injection, Eq. 3 and 4, against plain computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from concept_conductor import ConceptConductorPipeline, Injection, Layout
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.masks import Masks, bounding_rectangle
from concept_conductor.method.injection import guided, inject
from concept_conductor.method.multipath import multipath
from concept_conductor.settings import SamplingSettings
from tests.conftest import tiny_image

NOW = torch.tensor(500)
GUIDANCE = 3.0


def settings(injection: Injection | None) -> SamplingSettings:
    return SamplingSettings(guidance_scale=GUIDANCE, alignment=None, injection=injection, refinement=None)


@pytest.mark.parametrize("paths_per_forward", [None, 1])
@torch.no_grad()
def test_noise_fusion_is_equation_3(
    tiny_pipe: ConceptConductorPipeline,
    updates: list[Any],
    text: Conditioning,
    latents: Tensor,
    masks: Masks,
    paths_per_forward: int | None,
) -> None:
    with multipath(tiny_pipe.backbone, updates, paths_per_forward) as paths:
        fused, attention = inject(paths, latents, NOW, masks, text, settings(Injection(noise=True)))
        alone = [guided(paths.predict(latents, NOW, text, slice(i, i + 1), None)[0], GUIDANCE) for i in range(3)]
    expected = alone[0]
    for prediction, mask in zip(alone[1:], masks.grid.float().unbind(1), strict=True):
        expected = expected * (1 - mask[:, None]) + prediction * mask[:, None]
    assert attention is None
    assert torch.allclose(fused, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fused, alone[0], atol=1e-3)


@pytest.mark.parametrize("paths_per_forward", [None, 1])
@torch.no_grad()
def test_full_masks_give_the_concepts_own_path_and_empty_ones_the_base(
    tiny_pipe: ConceptConductorPipeline,
    updates: list[Any],
    text: Conditioning,
    latents: Tensor,
    paths_per_forward: int | None,
) -> None:
    """Eq. 4 in every block: inside a mask nothing is left of the base path's attention."""
    everywhere = Injection(blocks=("down", "mid", "up"))
    nowhere = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    with multipath(tiny_pipe.backbone, updates, paths_per_forward) as paths:
        base = guided(paths.predict(latents, NOW, text, slice(0, 1), None)[0], GUIDANCE)
        empty, _ = inject(paths, latents, NOW, Masks(nowhere), text, settings(everywhere))
        off, _ = inject(paths, latents, NOW, Masks(nowhere), text, settings(None))
        full = nowhere.clone()
        full[:, 1] = True
        second, _ = inject(paths, latents, NOW, Masks(full), text, settings(everywhere))
        later_wins, _ = inject(paths, latents, NOW, Masks(torch.ones_like(full)), text, settings(everywhere))
    assert torch.allclose(empty, base, rtol=1e-4, atol=1e-5)
    assert torch.allclose(off, base, rtol=1e-4, atol=1e-5)
    assert torch.allclose(later_wins, second, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(second, base, atol=1e-3)


@torch.no_grad()
def test_refinement_is_given_every_paths_attention(
    tiny_pipe: ConceptConductorPipeline, updates: list[Any], text: Conditioning, latents: Tensor, masks: Masks
) -> None:
    probabilities = []
    for paths_per_forward in (None, 1):
        with multipath(tiny_pipe.backbone, updates, paths_per_forward) as paths:
            _, attention = inject(paths, latents, NOW, masks, text, settings(Injection(blocks=("up",))), refine=True)
        assert attention is not None and attention.shape == (3, 2, 64, 64)
        probabilities.append(attention)
    assert torch.allclose(probabilities[0].sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(*probabilities, atol=1e-5)


def test_a_margin_is_injection_in_grown_masks(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    """A latent cell around each mask; what is shown, and refined, are the masks themselves."""
    call = {**tiny_call, "refinement": None}
    boxes = [Image.new("L", (128, 128)) for _ in range(2)]
    for left, box in zip((16, 80), boxes):
        ImageDraw.Draw(box).rectangle((left, 40, left + 31, 87), fill=255)
    grown = [Image.new("L", (128, 128)) for _ in range(2)]
    for left, box in zip((16, 80), grown):
        ImageDraw.Draw(box).rectangle((left - 8, 32, left + 39, 95), fill=255)
    prompt = "A dog and a cat."
    within, beyond, given = (
        tiny_pipe(
            **{**call, "layout": Layout(tiny_image("ref"), prompt, masks)},
            injection=Injection(margin=margin),
            generator=torch.Generator().manual_seed(0),
        )
        for masks, margin in ((boxes, 0.0), (boxes, 8 / 128), (grown, 0.0))
    )
    assert torch.equal(beyond.masks, within.masks)
    assert torch.allclose(beyond.images, given.images, atol=1e-5)
    assert not torch.allclose(beyond.images, within.images, atol=1e-3)


def test_rectangular_masks(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    """Injection in rectangles is injection in shapes that are rectangles; without refinement nothing else differs."""
    shapes = []
    for left in (8, 72):
        shape = Image.new("L", (128, 128))
        ImageDraw.Draw(shape).polygon([(left, 24), (left + 47, 24), (left, 104)], fill=255)
        shapes.append(shape)
    call = {**tiny_call, "refinement": None, "layout": Layout(tiny_image("ref"), "A dog and a cat.", shapes)}
    shaped, boxed = (
        tiny_pipe(**call, injection=injection, generator=torch.Generator().manual_seed(0))
        for injection in (Injection(), Injection(rectangular=True))
    )
    assert torch.equal(boxed.masks, bounding_rectangle(shaped.masks))
    boxes = [Image.fromarray(mask.numpy()).resize((128, 128), Image.Resampling.NEAREST) for mask in boxed.masks[0]]
    given = tiny_pipe(
        **{**call, "layout": Layout(tiny_image("ref"), "A dog and a cat.", boxes)},
        generator=torch.Generator().manual_seed(0),
    )
    assert torch.equal(given.masks, boxed.masks)
    assert torch.allclose(given.images, boxed.images, atol=1e-5)
    assert not torch.allclose(shaped.images, boxed.images, atol=1e-3)
