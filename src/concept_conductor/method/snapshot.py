"""What the paths compute inside one step, for a look inside; see the package ``tracing``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.denoiser.paths import AttentionRecord
from concept_conductor.method.injection import guided
from concept_conductor.method.inversion import BASE_PATH, Inverted
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import SamplingSettings


@dataclass(frozen=True)
class Snapshot:
    """What some paths computed in one step, on the device, the base path first.

    Paths that a run does not compute at a step (all concepts', where nothing is injected or refined) are not there.

    Attributes:
        clean: the clean latents that every path predicts (x0), with guidance, ``(paths, images, 4, h, w)`` in fp32.
        self_attention: the mask layer's probabilities, mean over heads, ``(paths, images, tokens, tokens)``.
        cross_attention: the word layer's, alike, ``(paths, images, tokens, text tokens)``.
        reference: the same of the layout reference at this timestep, one path and one image, where there is one.
    """

    clean: Tensor
    self_attention: Tensor
    cross_attention: Tensor
    reference: Snapshot | None = None

    @classmethod
    def take(
        cls,
        paths: Multipath,
        record: AttentionRecord,
        latents: Tensor,
        t: Tensor,
        settings: SamplingSettings,
        reference: Inverted | None,
        index: int,
    ) -> Snapshot:
        """Put together what ``record`` holds; the reference costs one more forward of the base path.

        Args:
            paths: the U-Net with all paths inside.
            record: of all chunks of this step.
            latents: what the paths started from, ``(images, 4, h, w)``.
            t: the timestep.
            settings: filled.
            reference: the layout reference.
            index: the step's.
        """
        snapshot = cls._of(record, paths.backbone, latents, t, settings.guidance_scale)
        if reference is None:
            return snapshot
        own, latents = AttentionRecord(), reference.latents[index]
        paths.predict(latents, t, reference.source.text.conditional, BASE_PATH, None, own)
        return replace(snapshot, reference=cls._of(own, paths.backbone, latents, t, guidance_scale=1.0))

    @classmethod
    def _of(
        cls, record: AttentionRecord, backbone: Backbone, latents: Tensor, t: Tensor, guidance_scale: float
    ) -> Snapshot:
        predictions, self_attention, cross_attention = (
            torch.cat(chunks[::-1])  # concept paths ran first
            for chunks in (record.predictions, record.self_attention, record.cross_attention)
        )
        noise = guided(predictions.transpose(0, 1), guidance_scale)  # (paths, images, 4, h, w)
        return cls(backbone.pred_original_sample(latents, noise, t), self_attention, cross_attention)
