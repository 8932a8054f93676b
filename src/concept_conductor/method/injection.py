"""Concept injection: the multipath forward with guidance, and fusion of features, Eq. 4, or of noise, Eq. 3."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import AttentionRecord, Fusion
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Injection, SamplingSettings

NOTHING = Injection(self_attention=False, cross_attention=False)


def inject(
    paths: Multipath,
    latents: Tensor,
    t: Tensor,
    masks: Masks,
    text: Conditioning,
    settings: SamplingSettings,
    *,
    refine: bool = False,
    record: AttentionRecord | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Predict the base path's noise with every concept injected where its mask is.

    Args:
        paths: the U-Net with all paths inside.
        latents: ``(images, 4, h, w)``, where all paths start from.
        t: the timestep.
        masks: where each concept is; it goes a margin beyond, if the settings have one.
        text: conditioning of all paths, with or without the unconditional half.
        settings: filled; what is fused, and the guidance g in ``ε = ε_u + g (ε_c - ε_u)``.
        refine: also return what refinement looks at.
        record: given what every path that runs computes, for a look inside.

    Returns:
        The guided prediction ``(images, 4, h, w)``; and, for refinement, the mask layer's self-attention
        probabilities ``(paths, images, tokens, tokens)``, else None.
    """
    injection, scale = settings.injection, settings.guidance_scale
    masks = regions(masks, injection)
    if injection is not None and injection.margin is not None:
        masks = masks.grown(injection.margin)
    fusion = Fusion(masks, injection or NOTHING, record=refine)
    # without fusion or refinement nothing of a concept path reaches the image
    chunks = paths.chunks() if injection is not None or refine else [slice(0, 1)]
    by_noise = injection is not None and injection.noise
    attention, concepts = None, latents.new_empty(paths.count if by_noise else 0, *latents.shape)
    for chunk in chunks:
        noise = paths.predict(latents, t, text, chunk, fusion, record)
        if by_noise:
            concepts[chunk] = guided(noise.transpose(0, 1), scale)
        if refine:
            (part,) = fusion.attention
            fusion.attention.clear()
            # filled part by part: joined at the end, all paths' probabilities would be in memory twice
            attention = part.new_empty(paths.count, *part.shape[1:]) if attention is None else attention
            attention[chunk] = part
    prediction = guided(noise[0], scale)
    if by_noise:
        for concept, mask in zip(concepts[1:], masks.grid.unbind(1), strict=True):
            prediction = torch.where(mask[:, None], concept, prediction)  # Eq. 3
    return prediction, attention


def regions(masks: Masks, settings: Injection | None) -> Masks:
    """Return where concepts are injected, but for the margin: their masks, or these masks' bounding rectangles."""
    return masks.rectangles() if settings is not None and settings.rectangular else masks


def guided(noise: Tensor, scale: float) -> Tensor:
    """Apply classifier-free guidance to ``(guidance, ...)``; the conditional half alone is taken as it is."""
    if len(noise) == 1:
        return noise[0]
    conditional, unconditional = noise
    return unconditional + scale * (conditional - unconditional)
