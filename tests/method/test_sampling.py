"""The loop of Figure 2: what each step leaves behind, and what stays of the model."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
import torch
from torch import Tensor

from concept_conductor import Alignment, BusyError, ConceptConductorPipeline, Injection, Inversion, Refinement
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.masks import Masks
from concept_conductor.method.background import BackgroundLatents
from concept_conductor.method.initial_masks import GivenMasks
from concept_conductor.method.inversion import InversionSource
from concept_conductor.method.sampling import SamplingInputs, sample
from concept_conductor.settings import SamplingSettings
from tests.conftest import tiny_image

STEPS = 5


@pytest.fixture
def settings() -> SamplingSettings:
    """Steps 0 and 1 are aligned, step 2 refines."""
    return SamplingSettings(
        steps=STEPS, guidance_scale=3.0, inversion=Inversion(steps=50, cache=False),
        alignment=Alignment(step_size=10.0, concept_weight=1.0, end=0.2),
        injection=Injection(blocks=("up",), margin=0.0),
        refinement=Refinement(start=0.4, end=0.4, every=5, overlap_threshold=0.0, keep_outline=False),
    )  # fmt: skip


@pytest.fixture
def inputs(
    tiny_pipe: ConceptConductorPipeline, updates: list[Any], text: Conditioning, latents: Tensor, masks: Masks
) -> SamplingInputs:
    from concept_conductor.io.tensors import image_pixels

    pixels = image_pixels(tiny_image("ref"), (128, 128))
    prompt = "a dog and a cat"
    source = InversionSource(pixels, prompt, tiny_pipe.backbone.encode_prompt(prompt), None)
    return SamplingInputs(text, updates, latents, GivenMasks(masks.grid[0]), source)


def test_steps_say_what_was_done(
    tiny_pipe: ConceptConductorPipeline, inputs: SamplingInputs, settings: SamplingSettings
) -> None:
    with closing(sample(tiny_pipe.backbone, inputs, settings, traced={3})) as running:
        steps = list(running)
    assert [step.index for step in steps] == list(range(STEPS))
    assert [step.timestep for step in steps] == sorted((step.timestep for step in steps), reverse=True)
    assert [step.layout_loss is not None for step in steps] == [True, True, False, False, False]
    assert [step.refined for step in steps] == [False, False, True, False, False]
    assert [step.snapshot is not None for step in steps] == [False, False, False, True, False]
    assert steps[2].masks.own is not None and steps[1].masks.own is None


def test_latents_sent_back_replace_the_steps_own(
    tiny_pipe: ConceptConductorPipeline, inputs: SamplingInputs, settings: SamplingSettings
) -> None:
    """The run goes on from what was sent: the next latents are those that a run with them would have."""
    other = torch.full_like(inputs.latents, 0.5)
    last = []
    for sent in (None, other):
        with closing(sample(tiny_pipe.backbone, inputs, settings)) as running:
            next(running)
            last.append(running.send(sent).latents)
    assert not torch.allclose(*last, atol=1e-2)


def test_a_background_is_blended_after_every_step(
    tiny_pipe: ConceptConductorPipeline, inputs: SamplingInputs, settings: SamplingSettings
) -> None:
    class Constant:
        def latents(self, *_: object) -> BackgroundLatents:
            after = [torch.full((1, 4, 16, 16), float(index)) for index in range(STEPS)]
            mask = torch.zeros(1, 1, 16, 16)
            mask[..., 8:] = 1
            return BackgroundLatents(after, mask)

    placed = SamplingInputs(inputs.text, inputs.updates, inputs.latents, inputs.masks, inputs.reference, Constant())
    with closing(sample(tiny_pipe.backbone, placed, settings)) as running:
        for step in running:
            left, right = step.latents[..., :8], step.latents[..., 8:]
            assert torch.equal(left, torch.full_like(left, float(step.index)))
            assert right.std() > 0.1


def test_the_model_is_itself_again_when_a_run_is_closed(
    tiny_pipe: ConceptConductorPipeline, inputs: SamplingInputs, settings: SamplingSettings
) -> None:
    unet = tiny_pipe.unet
    before = {name: type(module) for name, module in unet.named_modules()}
    processors = dict(unet.attn_processors)
    with closing(sample(tiny_pipe.backbone, inputs, settings)) as running:
        next(running)
        assert {name: type(module) for name, module in unet.named_modules()} != before
        with pytest.raises(BusyError, match="already sampling"):
            next(sample(tiny_pipe.backbone, inputs, settings))
    assert {name: type(module) for name, module in unet.named_modules()} == before
    assert unet.attn_processors == processors
