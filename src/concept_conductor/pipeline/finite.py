"""Latents that stop being numbers: the step is named instead of a black image."""

from __future__ import annotations

import torch
from torch import Tensor

from concept_conductor.errors import NonFiniteError

WAYS_OUT = (
    "run in float32 (torch_dtype=torch.float32, in recipes 'dtype: float32'), use another VAE if it is the VAE that "
    "overflows, or lower the concepts' weights or the alignment's step_size"
)


class FiniteLatents:
    """Watch the latents of a run.

    On a CPU it raises at the step itself; elsewhere, so as not to wait for the device in every step, at the end.

    Args:
        steps: T.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._finite: list[Tensor] = []

    def add(self, latents: Tensor) -> None:
        """Look at a step's latents.

        Raises:
            NonFiniteError: on a CPU, they are not finite.
        """
        self._finite.append(latents.isfinite().all())
        if latents.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Say which step was the first whose latents are not finite.

        Raises:
            NonFiniteError: one was.
        """
        if self._finite and not bool(torch.stack(self._finite).all()):
            first = torch.stack(self._finite).tolist().index(False)
            raise NonFiniteError(
                f"step {first + 1} of {self.steps} gave latents that are not numbers (NaN or infinity); {WAYS_OUT}"
            )


def check_pixels(pixels: Tensor) -> None:
    """Refuse decoded pixels that are not finite.

    Raises:
        NonFiniteError: some are not.
    """
    if not bool(pixels.isfinite().all()):
        raise NonFiniteError(
            f"the VAE decoded finite latents to pixels that are not numbers (NaN or infinity); {WAYS_OUT}"
        )
