"""Layout alignment, Eq. 1 and 2: a gradient step on the latents towards the reference's layout."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.masks import Masks
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Alignment


def align(
    paths: Multipath,
    latents: Tensor,
    t: Tensor,
    reference: Tensor,
    text: Conditioning,
    settings: Alignment,
    masks: Masks,
) -> tuple[Tensor, Tensor]:
    """Take one gradient step pulling every path's layout keys towards the reference's.

    ``loss = sum over images of MSE(k_0, k_ref) + α mean_i MSE(k_i, k_ref)``, means over tokens and channels;
    ``z <- z - λ ∇ loss``. The loss is a sum over paths, so chunks of paths add up their gradients.

    Args:
        paths: the U-Net with all paths inside.
        latents: ``(images, 4, h, w)``.
        t: the timestep.
        reference: the layout reference's keys at this timestep, ``(tokens, channels)``.
        text: conditioning of all paths.
        settings: filled.
        masks: the concepts', over whose tokens the loss is the mean where the settings say ``foreground_only``.

    Returns:
        The new latents, and the loss of every path ``(paths,)`` before the step, unweighted, summed over images.
    """
    assert settings.step_size is not None and settings.concept_weight is not None
    # fp16 gradients of a mean over so many elements would underflow: differentiate the sum, divide after
    elements = reference.numel()
    gradient = torch.zeros_like(latents, dtype=torch.float32)
    losses = []
    for chunk in paths.chunks():
        with torch.enable_grad():
            leaf = latents.detach().requires_grad_()
            # (paths, images, tokens, channels)
            keys = paths.layout_keys(leaf, t, text, chunk, settings.gradient_checkpointing)
            squares = (keys.float() - reference.float()).square()
            if settings.foreground_only:
                foreground = masks.tokens(len(reference)).any(1)  # (images, tokens)
                share = foreground.sum(-1).clamp(min=1) / foreground.shape[-1]
                squares = squares * (foreground / share[:, None])[..., None]
            squares = squares.sum((1, 2, 3))
            weight = path_weights(paths.count, settings.concept_weight).to(squares)[chunk]
            (gradient_of_chunk,) = torch.autograd.grad((squares * weight).sum(), leaf)
        gradient += gradient_of_chunk.float()
        losses.append(squares.detach() / elements)
    aligned = latents.float() - settings.step_size / elements * gradient
    return aligned.to(latents.dtype), torch.cat(losses[::-1])


def path_weights(count: int, concept_weight: float) -> Tensor:
    """Return each path's weight in the loss: 1 for the base path, α/N for each of N concepts."""
    weights = torch.full((count,), concept_weight / max(1, count - 1))
    weights[0] = 1.0
    return weights
