"""What stays of an image that objects are placed in: its latents during the run, its pixels after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.method.inversion import InversionSource, Inverted

#: Gives an image's inversion at all timesteps of the run.
Inverter = Callable[[InversionSource], Inverted]


class Background(Protocol):
    """What stays of the image, in latents."""

    def prepare(self, backbone: Backbone, timesteps: Tensor, invert: Inverter) -> None:
        """Called once before the first step."""
        ...

    def keep(self, latents: Tensor, index: int) -> Tensor:
        """Put the background back after step ``index``: ``z <- (1 - m) z_bg + m z`` at the next timestep."""
        ...


@dataclass
class NoisedBackground:
    """z_bg is the clean latent with the run's initial noise added (the published implementation).

    Attributes:
        pixels: ``(1, 3, H, W)`` in -1..1.
        mask: ``(1, 1, h, w)``, 1 where objects may be placed.
        noise: the run's initial latents.
    """

    pixels: Tensor
    mask: Tensor
    noise: Tensor

    def prepare(self, backbone: Backbone, timesteps: Tensor, invert: Inverter) -> None:
        clean = backbone.encode_image(self.pixels)
        self._latents = [backbone.scheduler.add_noise(clean, self.noise, t[None]) for t in timesteps[1:]]
        self._latents.append(clean)

    def keep(self, latents: Tensor, index: int) -> Tensor:
        return torch.lerp(self._latents[index].expand_as(latents), latents, self.mask.to(latents))


@dataclass
class InvertedBackground:
    """z_bg is the image's own inversion, which lies on its trajectory (the paper).

    Attributes:
        source: the image with its prompt.
        mask: ``(1, 1, h, w)``, 1 where objects may be placed.
    """

    source: InversionSource
    mask: Tensor

    def prepare(self, backbone: Backbone, timesteps: Tensor, invert: Inverter) -> None:
        inverted = invert(self.source)
        self._latents = [inverted.latents[int(t)] for t in timesteps[1:]]
        self._latents.append(backbone.encode_image(self.source.pixels))

    def keep(self, latents: Tensor, index: int) -> Tensor:
        return torch.lerp(self._latents[index].expand_as(latents), latents, self.mask.to(latents))
