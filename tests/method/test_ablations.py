"""The paper's ablations, against plain computations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from concept_conductor import Alignment, ConceptConductorPipeline, ConceptPrompt, Injection, Layout
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.denoiser.masks import Masks, bounding_rectangle
from concept_conductor.method.alignment import align
from concept_conductor.method.injection import guided, inject
from concept_conductor.method.multipath import Multipath, multipath
from tests.conftest import tiny_image

NOW = torch.tensor(500)
GUIDANCE = 3.0


@pytest.fixture(scope="module")
def text(tiny_pipe: ConceptConductorPipeline, tiny_concepts: dict[str, ConceptPrompt]) -> Conditioning:
    backbone, entries = tiny_pipe.backbone, [tiny_concepts["chow_dog"], tiny_concepts["siberian_cat"]]
    texts = [[backbone.encode_prompt(prompt) for prompt in ("a dog and a cat", "")]]
    texts += [backbone.encode_concept_prompts(entry.concept, 0.7, [entry.prompt, ""]) for entry in entries]
    return Conditioning.stack(texts)


@pytest.fixture(scope="module")
def updates(tiny_concepts: dict[str, ConceptPrompt]) -> list[Any]:
    return [{}, *(ScaledUpdates(tiny_concepts[name].concept.unet, 0.7) for name in ("chow_dog", "siberian_cat"))]


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def masks() -> Masks:
    grid = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    grid[:, 0, 2:9, 1:8] = True
    grid[:, 1, 5:14, 6:15] = True  # over a part of the first
    grid[1, 1, :, 12:] = False
    return Masks(grid)


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
        fused, attention = inject(paths, latents, NOW, masks, text, GUIDANCE, Injection(noise=True), record=False)
        alone = [guided(paths.predict(latents, NOW, text, slice(i, i + 1), None)[0], GUIDANCE) for i in range(3)]
    expected = alone[0]
    for prediction, mask in zip(alone[1:], masks.grid.float().unbind(1), strict=True):
        expected = expected * (1 - mask[:, None]) + prediction * mask[:, None]
    assert attention is None
    assert torch.allclose(fused, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fused, alone[0], atol=1e-3)


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
        aligned, _ = align(paths, latents, NOW, reference, text, settings, foreground)
        elsewhere = reference + 9 * (~foreground.any(0))[:, None]
        same, _ = align(paths, latents, NOW, elsewhere, text, settings, foreground)
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
