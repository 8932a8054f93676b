"""Concept injection: the multipath forward with guidance, and fusion of features, Eq. 4, or of noise, Eq. 3."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import AttentionRecord, Fusion
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Injection


def inject(
    paths: Multipath,
    latents: Tensor,
    t: Tensor,
    masks: Masks,
    text: Conditioning,
    guidance_scale: float,
    settings: Injection | None,
    record: bool,
    recording: AttentionRecord | None = None,
) -> tuple[Tensor, Tensor | None]:
    """The base path's guided prediction with every concept injected where its mask is.

    Args:
        paths: the U-Net with all paths inside.
        latents: ``(images, 4, h, w)``, where all paths start from.
        t: the timestep.
        masks: where each concept is; it goes a margin beyond, if the settings have one.
        text: conditioning of all paths, with or without the unconditional half.
        guidance_scale: g in ``ε = ε_u + g (ε_c - ε_u)``.
        settings: what is fused; None for nothing.
        record: also return the mask layer's self-attention probabilities.
        recording: given what every path that runs computes, for a look inside.

    Returns:
        The prediction ``(images, 4, h, w)``, and ``(paths, images, tokens, tokens)`` or None.
    """
    if settings is not None and settings.margin is not None:
        masks = masks.grown(settings.margin)
    fusion = Fusion(masks, settings or Injection(self_attention=False, cross_attention=False), record)
    # without fusion or recording nothing of a concept path reaches the image
    chunks = paths.chunks() if settings is not None or record else [slice(0, 1)]
    by_noise = settings is not None and settings.noise
    attention, concepts = None, latents.new_empty(paths.count if by_noise else 0, *latents.shape)
    for chunk in chunks:
        noise = paths.predict(latents, t, text, chunk, fusion, recording)
        if by_noise:
            concepts[chunk] = guided(noise.transpose(0, 1), guidance_scale)
        if record:
            (part,) = fusion.attention
            fusion.attention.clear()
            # filled part by part: joined at the end, all paths' probabilities would be in memory twice
            attention = part.new_empty(paths.count, *part.shape[1:]) if attention is None else attention
            attention[chunk] = part
    prediction = guided(noise[0], guidance_scale)
    if by_noise:
        for concept, mask in zip(concepts[1:], masks.grid.unbind(1), strict=True):
            prediction = torch.where(mask[:, None], concept, prediction)  # Eq. 3
    return prediction, attention


def guided(noise: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance of ``(guidance, ...)``; the conditional half alone is taken as it is."""
    if len(noise) == 1:
        return noise[0]
    conditional, unconditional = noise
    return unconditional + scale * (conditional - unconditional)
