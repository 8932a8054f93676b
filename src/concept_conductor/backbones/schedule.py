"""The noise schedule of a run: DDIM over its timesteps, step by step."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from concept_conductor.errors import ConductorError

#: A run, which is given pure noise, should start at this share of the training timesteps at least.
LEAST_START = 0.9


class Schedule:
    """DDIM without added noise (eta 0), by the step's index.

    Args:
        scheduler: the checkpoint's betas, prediction type, spacing and offset.
        steps: T, the number of denoising steps.
        device: of the timesteps.

    Attributes:
        timesteps: most noisy first, ``(steps,)``.

    Raises:
        ConductorError: more steps than there are timesteps.
    """

    def __init__(self, scheduler: DDIMScheduler, steps: int, device: torch.device | str = "cpu") -> None:
        config = scheduler.config
        self._alphas, self._last, self._velocity = (
            scheduler.alphas_cumprod, scheduler.final_alpha_cumprod, config.prediction_type == "v_prediction"
        )  # fmt: skip
        trailing = config.timestep_spacing == "trailing"
        chosen = spaced(config.num_train_timesteps, 0 if trailing else config.steps_offset, steps, trailing=trailing)
        self._chosen = chosen
        self.timesteps = torch.tensor(chosen, device=device)

    def step(self, prediction: Tensor, index: int, latents: Tensor) -> Tensor:
        """Denoise ``latents`` by step ``index``.

        Args:
            prediction: what the network predicts of ``latents`` (noise or velocity), with guidance.
            index: the step's.
            latents: ``(images, 4, h, w)``.
        """
        alpha = self._alphas[self._chosen[index]]
        following = self._last if index + 1 == len(self._chosen) else self._alphas[self._chosen[index + 1]]
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        if self._velocity:
            clean, epsilon = signal * latents - noise * prediction, signal * prediction + noise * latents
        else:
            clean, epsilon = (latents - noise * prediction) / signal, prediction
        return following**0.5 * clean + (1 - following) ** 0.5 * epsilon


def spaced(trained: int, offset: int, steps: int, *, trailing: bool = False) -> list[int]:
    """Return a run's timesteps, most noisy first.

    Args:
        trained: the number of training timesteps.
        offset: of the last one.
        steps: T.
        trailing: count from the noisiest timestep down; otherwise from ``offset`` up in whole strides, as published.

    Raises:
        ConductorError: more steps than there are timesteps.
    """
    most = trained - offset
    if not 1 <= steps <= most:
        raise ConductorError(
            f"this model was trained on {trained} timesteps, of which a run takes 1 to {most} steps, but "
            f"num_inference_steps is {steps}; the nearest that works is {min(max(steps, 1), most)}"
        )
    if trailing:
        return [round(trained * (1 - index / steps)) - 1 for index in range(steps)]
    stride = trained // steps
    rising = [index * stride + offset for index in range(steps)]
    if rising[-1] + 2 * stride < trained and rising[-1] < LEAST_START * trained:
        # whole strides would end far below the noise that the run is given (600 steps: at 600 of 1000)
        rising = [index * trained // steps + offset for index in range(steps)]
    return rising[::-1]
