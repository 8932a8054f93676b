"""Object placement in latents: what stays of the image around the mask, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from concept_conductor.method.inversion import InversionSource, Inverted, Progress, invert
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Inversion


class BlendedLatents(Protocol):
    """A background of one run, ready for its steps."""

    def blend(self, latents: Tensor, index: int) -> Tensor:
        """Put the background back after step ``index``: ``z <- (1 - m) z_bg + m z`` at the next timestep."""
        ...


class Background(Protocol):
    """What stays of an image that objects are placed in."""

    def latents(
        self,
        paths: Multipath,
        timesteps: Tensor,
        reference: Inverted | None,
        settings: Inversion,
        progress: Progress | None,
    ) -> BlendedLatents:
        """Compute the background's latents of all steps.

        Args:
            paths: the U-Net with all paths inside; only the base path runs.
            timesteps: all timesteps of the run.
            reference: the inverted layout reference, which may be the same image.
            settings: of an inversion.
            progress: told how far an inversion is.
        """
        ...


@dataclass(frozen=True)
class BackgroundLatents:
    """Hold z_bg after every step.

    Attributes:
        after: of each step, ``(1 or images, 4, h, w)``; the last one is the clean image's.
        mask: ``(1, 1, h, w)``, 1 where objects may be placed.
    """

    after: Sequence[Tensor]
    mask: Tensor

    def blend(self, latents: Tensor, index: int) -> Tensor:
        """See :meth:`BlendedLatents.blend`."""
        return torch.lerp(self.after[index].expand_as(latents), latents, self.mask.to(latents))


@dataclass(frozen=True)
class NoBackground:
    """Without placement nothing stays: all latents are the run's own."""

    def latents(self, *_: object) -> NoBackground:
        """See :meth:`Background.latents`."""
        return self

    def blend(self, latents: Tensor, index: int) -> Tensor:
        """Return the run's latents as they are."""
        return latents


@dataclass(frozen=True)
class NoisedBackground:
    """Take for z_bg the clean latent with the run's initial noise added (the published implementation).

    Attributes:
        pixels: ``(1, 3, H, W)`` in -1..1.
        mask: ``(1, 1, h, w)``, 1 where objects may be placed.
        noise: the run's initial latents, ``(images, 4, h, w)``.
    """

    pixels: Tensor
    mask: Tensor
    noise: Tensor

    def latents(
        self,
        paths: Multipath,
        timesteps: Tensor,
        reference: Inverted | None,
        settings: Inversion,
        progress: Progress | None,
    ) -> BackgroundLatents:
        """See :meth:`Background.latents`."""
        backbone = paths.backbone
        clean = backbone.encode_image(self.pixels)
        noised = [backbone.scheduler.add_noise(clean, self.noise, t[None]) for t in timesteps[1:]]
        return BackgroundLatents([*noised, clean], self.mask)


@dataclass(frozen=True)
class InvertedBackground:
    """Take for z_bg the image's own inversion, which lies on its trajectory (the paper).

    Attributes:
        source: the image with its prompt.
        mask: ``(1, 1, h, w)``, 1 where objects may be placed.
    """

    source: InversionSource
    mask: Tensor

    def latents(
        self,
        paths: Multipath,
        timesteps: Tensor,
        reference: Inverted | None,
        settings: Inversion,
        progress: Progress | None,
    ) -> BackgroundLatents:
        """See :meth:`Background.latents`."""
        inverted = reference  # in object replacement the image is its own layout reference
        if inverted is None or not self.source.same_as(inverted.source):
            inverted = invert(paths, self.source, timesteps, (), settings, progress)
        after = [inverted.latents[index] for index in range(1, len(timesteps))]
        return BackgroundLatents([*after, paths.backbone.encode_image(self.source.pixels)], self.mask)
