"""The loop of Figure 2: invert, then in every step align, inject, refine and denoise."""

from __future__ import annotations

from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.data import Update
from concept_conductor.denoiser.paths import AttentionRecord
from concept_conductor.method.alignment import align
from concept_conductor.method.background import Background, NoBackground
from concept_conductor.method.initial_masks import GivenMasks, MaskSource
from concept_conductor.method.injection import inject
from concept_conductor.method.inversion import InversionSource, Progress, invert
from concept_conductor.method.multipath import multipath
from concept_conductor.method.refinement import RefinedMasks
from concept_conductor.method.snapshot import Snapshot
from concept_conductor.settings import SamplingSettings


@dataclass(frozen=True)
class SamplingInputs:
    """All that a run starts from, checked once and then trusted.

    Attributes:
        text: conditioning of all paths, the base path first.
        updates: each path's weights beside the U-Net's own, none for the base path.
        latents: the initial noise, ``(images, 4, h, w)``.
        masks: where the concepts' masks come from.
        reference: the layout reference; None where nothing needs it.
        background: what stays of an image that objects are placed in.
    """

    text: Conditioning
    updates: Sequence[Mapping[str, Update]]
    latents: Tensor
    masks: MaskSource
    reference: InversionSource | None = None
    background: Background = field(default_factory=NoBackground)


@dataclass(frozen=True)
class Step:
    """What one denoising step leaves behind.

    Attributes:
        index, timestep: which step; 0 is the noisiest.
        latents: ``(images, 4, h, w)`` after the scheduler and placement.
        masks: the concepts' masks for the next step.
        layout_loss: every path's layout loss before this step's alignment ``(paths,)``, or None.
        refined: whether this step refined the masks.
        snapshot: what the paths computed, where a look inside was asked for.
    """

    index: int
    timestep: int
    latents: Tensor
    masks: RefinedMasks
    layout_loss: Tensor | None
    refined: bool
    snapshot: Snapshot | None


@torch.no_grad()
def sample(
    backbone: Backbone,
    inputs: SamplingInputs,
    settings: SamplingSettings,
    progress: Progress | None = None,
    traced: Container[int] = (),
) -> Generator[Step, Tensor | None, None]:
    """Denoise step by step (Figure 2), yielding every step; latents sent back replace the step's own.

    Consume it with ``contextlib.closing``: the U-Net is the method's until the generator is closed.

    Args:
        backbone: the model.
        inputs: what to start from.
        settings: filled.
        progress: told how far an inversion is.
        traced: the indices of the steps to look into, which changes none of their results.
    """
    schedule, latents, text = backbone.schedule(settings.steps), inputs.latents, inputs.text
    timesteps = schedule.timesteps
    aligned, refined, alignment = settings.aligned_steps, settings.refined_steps, settings.alignment

    with multipath(backbone, inputs.updates, settings.paths_per_forward) as paths:
        reference = None
        if inputs.reference is not None:
            reference = invert(paths, inputs.reference, timesteps, aligned, settings.inversion, progress)
        masks = RefinedMasks(inputs.masks.initial(paths, timesteps, reference, len(latents)))
        background = inputs.background.latents(paths, timesteps, reference, settings.inversion, progress)
        for index, t in enumerate(timesteps):
            loss = snapshot = None
            record = AttentionRecord() if index in traced else None
            if alignment is not None and reference is not None and index in aligned:
                latents, loss = align(paths, latents, t, reference.keys[index], text, alignment, masks.fused)
            noise, attention = inject(
                paths, latents, t, masks.fused, text, settings, refine=index in refined, record=record
            )
            if record is not None:
                snapshot = Snapshot.take(paths, record, latents, t, settings, reference, index)
            if attention is not None and settings.refinement is not None:
                masks = masks.refined(attention, index, settings.refinement)
            latents = schedule.step(noise, index, latents)
            latents = background.blend(latents, index)
            replaced = yield Step(index, int(t), latents, masks, loss, attention is not None, snapshot)
            latents = latents if replaced is None else replaced


def sample_alone(
    backbone: Backbone,
    text: Conditioning,
    update: Mapping[str, Update],
    latents: Tensor,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """Sample one path by itself, without a layout: the base model's, or one concept's own.

    Args:
        backbone: the model.
        text: conditioning of that path, ``(1, guidance, layers, tokens, dim)``.
        update: its weights beside the U-Net's own.
        latents: the initial noise, ``(images, 4, h, w)``.
        steps: T.
        guidance_scale: classifier-free guidance.

    Returns:
        Images ``(images, 3, H, W)`` in 0..1.
    """
    nowhere = GivenMasks(torch.zeros(0, *latents.shape[-2:], dtype=torch.bool))
    inputs = SamplingInputs(text, [update], latents.to(backbone.device, backbone.dtype), nowhere)
    settings = SamplingSettings(
        steps=steps, guidance_scale=guidance_scale, alignment=None, injection=None, refinement=None
    )
    *_, last = sample(backbone, inputs, settings)
    return backbone.decode_latents(last.latents)
