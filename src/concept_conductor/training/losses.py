"""What training minimises: the masked denoising loss and attention regularisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from diffusers import DDIMScheduler
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.errors import ConductorError


def target(scheduler: DDIMScheduler, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return what the model should predict, ``(B, 4, h, w)``: the noise, or the velocity.

    Raises:
        ConductorError: the checkpoint predicts something else.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(latents, noise, t)
        return velocity
    raise ConductorError(f"the checkpoint predicts '{kind}'; training knows 'epsilon' and 'v_prediction'")


def masked_loss(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the batch of Σ(error² · m) / Σm.

    The numerator sums the four channels and the denominator does not, as in the published trainer: that makes it
    four times an ordinary masked mean, and the learning rates were tuned to it.

    Args:
        prediction, target: ``(B, 4, h, w)``.
        mask: ``(B, 1, h, w)`` in 0..1, nowhere empty.
    """
    error = (prediction.float() - target.float()).square()
    return ((error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()


def attention_loss(
    attention: Mapping[tuple[int, int], Sequence[Tensor]], mask: Tensor, full_identity: bool = False
) -> Tensor:
    """Return the placeholders' cross-attention outside of the subject, summed over resolutions.

    At each resolution the maps are averaged over its layers, divided by their maximum over the batch, and then
    averaged over the background. Samples whose mask has no background are left out.

    Args:
        attention: for each resolution ``(h, w)``, one tensor ``(B, placeholders, h, w)`` per layer, already
            averaged over heads.
        mask: ``(B, 1, H, W)`` of 0 and 1; brought to each resolution by nearest neighbour.
        full_identity: the last placeholder's map shall equal the mask (mean square error) instead.
    """
    total = mask.new_zeros(())
    for resolution, layers in attention.items():
        maps = torch.stack(list(layers)).mean(0)  # (B, placeholders, h, w)
        maps = maps / maps.amax((0, 2, 3), keepdim=True)
        m = F.interpolate(mask, resolution, mode="nearest")  # (B, 1, h, w)
        counted = (m == 0).flatten(1).any(1)
        if not counted.any():
            continue
        maps, m = maps[counted], m[counted]
        background = (m == 0).expand(-1, maps.shape[1], -1, -1)
        for k in range(maps.shape[1]):
            if full_identity and k == maps.shape[1] - 1:
                total = total + F.mse_loss(maps[:, k], m[:, 0])
            else:
                total = total + maps[:, k][background[:, k]].mean()
    return total
