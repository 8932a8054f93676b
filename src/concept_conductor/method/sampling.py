"""The loop of Figure 2: invert, align, inject, refine, step."""

from __future__ import annotations

from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.data import Update
from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import AttentionRecord
from concept_conductor.method.alignment import align
from concept_conductor.method.background import Background
from concept_conductor.method.initial_masks import GivenMasks, MaskSource
from concept_conductor.method.injection import inject
from concept_conductor.method.inversion import InversionSource, Inverted, Progress, invert
from concept_conductor.method.multipath import multipath
from concept_conductor.method.refinement import RefinedMasks
from concept_conductor.method.snapshot import Snapshot, snapshot_reference
from concept_conductor.settings import SamplingSettings


@dataclass(frozen=True)
class Step:
    """What one denoising step left behind.

    Attributes:
        index, timestep: which step; 0 is the noisiest.
        latents: ``(images, 4, h, w)`` after the scheduler and placement.
        masks: ``(images, concepts, h, w)``, boolean, for the next step.
        layout_loss: every path's layout loss before this step's alignment ``(paths,)``, or None.
        refined: the masks with what they were made from, where this step refined them.
        observation: what the paths computed, where a look inside was asked for.
        reference: the same of the layout reference at this timestep, where there is one.
    """

    index: int
    timestep: int
    latents: Tensor
    masks: Tensor
    layout_loss: Tensor | None
    refined: RefinedMasks | None = None
    observation: Snapshot | None = None
    reference: Snapshot | None = None


@torch.no_grad()
def sample(
    backbone: Backbone,
    scene: SamplingInputs,
    settings: SamplingSettings,
    progress: Progress | None = None,
    observed: Container[int] = (),
) -> Generator[Step, Tensor | None, None]:
    """Denoise ``scene`` step by step (Figure 2), yielding every step; latents sent back replace the step's own.

    Consume it with ``contextlib.closing``: the U-Net is the method's until the generator is closed.

    Args:
        backbone: the model.
        scene: where to start.
        settings: filled.
        progress: told how far the inversion of the reference is.
        observed: the steps to look inside, which changes none of their results.
    """
    timesteps, steps = backbone.timesteps(settings.steps), settings.steps
    alignment, refinement = settings.alignment, settings.refinement
    rectangular = settings.injection is not None and settings.injection.rectangular
    aligned = [i for i in range(steps) if alignment is not None and alignment.covers(i, steps)]
    refined = refinement.refined_steps(steps) if refinement is not None else frozenset()
    latents, text = scene.latents, scene.text

    def regions(shapes: Masks) -> Masks:
        return shapes.rectangles() if rectangular else shapes

    with multipath(backbone, scene.updates, settings.paths_per_forward) as paths:

        def inversion(source: InversionSource) -> Inverted:
            if reference is not None and scene.reference is not None and source.same_as(scene.reference):
                return reference  # in object replacement the image is its own layout reference
            return invert(paths, source, timesteps, (), settings.inversion, progress)

        reference = None
        if scene.reference is not None:
            reference = invert(paths, scene.reference, timesteps, timesteps[aligned], settings.inversion, progress)
        masks = RefinedMasks(scene.masks.masks(paths, timesteps, reference, len(latents)))
        if scene.background is not None:
            scene.background.prepare(backbone, timesteps, inversion)

        for index, t in enumerate(timesteps):
            loss = None
            if alignment is not None and reference is not None and index in aligned:
                keys = reference.keys[int(t)]
                foreground = masks.fused.tokens(len(keys)).any(1) if alignment.foreground_only else None
                latents, loss = align(paths, latents, t, keys, text, alignment, foreground)
            recording = AttentionRecord() if index in observed else None
            noise, attention = inject(
                paths,
                latents,
                t,
                regions(masks.fused),
                text,
                settings.guidance_scale,
                settings.injection,
                index in refined,
                recording,
            )
            observation = look = None
            if recording is not None:
                observation = Snapshot.of(recording, backbone, latents, t, settings.guidance_scale)
                look = None if reference is None else snapshot_reference(paths, reference, t)
            if refinement is not None and attention is not None:
                masks = masks.refined(attention, index, refinement)
            latents = backbone.scheduler.step(noise, t, latents, return_dict=False)[0]
            if scene.background is not None:
                latents = scene.background.keep(latents, index)
            shown = regions(masks.fused).grid
            replaced = yield Step(
                index, int(t), latents, shown, loss, masks if attention is not None else None, observation, look
            )
            latents = latents if replaced is None else replaced


def sample_alone(
    backbone: Backbone,
    text: Conditioning,
    update: Mapping[str, Update],
    latents: Tensor,
    steps: int,
    guidance_scale: float,
) -> Tensor:
    """What one path gives by itself, without layout: the base model, or one concept's own.

    Args:
        text: conditioning of that path, ``(1, guidance, layers, tokens, dim)``.
        update: its low-rank weights.
        latents: the initial noise, ``(images, 4, h, w)``.

    Returns:
        Images ``(images, 3, H, W)`` in 0..1.
    """
    nowhere = GivenMasks(torch.zeros(0, *latents.shape[-2:], dtype=torch.bool))
    scene = SamplingInputs(text, [update], latents.to(backbone.device, backbone.dtype), nowhere)
    settings = SamplingSettings(
        steps=steps, guidance_scale=guidance_scale, alignment=None, injection=None, refinement=None
    )
    *_, last = sample(backbone, scene, settings)
    return backbone.decode_latents(last.latents)


@dataclass(frozen=True)
class SamplingInputs:
    """All that a run starts from, checked once and then trusted.

    Attributes:
        text: conditioning of all paths.
        updates: each path's U-Net low-rank weights, none for the base path.
        latents: the initial noise, ``(images, 4, h, w)``.
        masks: where the concepts' masks come from.
        reference: the layout reference; None where nothing needs it.
        background: what stays of an image that objects are placed in; None without placement.
    """

    text: Conditioning
    updates: Sequence[Mapping[str, Update]]
    latents: Tensor
    masks: MaskSource
    reference: InversionSource | None = None
    background: Background | None = None
