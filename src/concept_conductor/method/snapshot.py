"""What the paths compute inside one step, for those who want to look; see the package ``tracing``."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.denoiser.paths import AttentionRecord
from concept_conductor.method.injection import guided
from concept_conductor.method.inversion import BASE_PATH, Inverted
from concept_conductor.method.multipath import Multipath


@dataclass(frozen=True)
class Snapshot:
    """What some paths computed in one step, on the device, the base path first.

    Paths that a run does not compute at a step (all concepts', where nothing is injected or refined) are not there.

    Attributes:
        clean: the clean latents that every path predicts (x0), with guidance, ``(paths, images, 4, h, w)`` in fp32.
        self_attention: the mask layer's probabilities, mean over heads, ``(paths, images, tokens, tokens)``.
        cross_attention: the word layer's, alike, ``(paths, images, tokens, text tokens)``.
    """

    clean: Tensor
    self_attention: Tensor
    cross_attention: Tensor

    @classmethod
    def of(
        cls, recording: AttentionRecord, backbone: Backbone, latents: Tensor, t: Tensor, guidance_scale: float
    ) -> Snapshot:
        """What ``recording`` holds, in the paths' order.

        Args:
            recording: of all chunks of one step.
            backbone: the model.
            latents: what the paths started from, ``(images, 4, h, w)``.
            t: the timestep.
            guidance_scale: classifier-free guidance.
        """
        predictions, self_attention, cross_attention = (
            torch.cat(chunks[::-1])  # concept paths ran first
            for chunks in (recording.predictions, recording.self_attention, recording.cross_attention)
        )
        noise = guided(predictions.transpose(0, 1), guidance_scale)  # (paths, images, 4, h, w)
        return cls(backbone.pred_original_sample(latents, noise, t), self_attention, cross_attention)


def snapshot_reference(paths: Multipath, reference: Inverted, t: Tensor) -> Snapshot:
    """A look at the layout reference at timestep ``t``: one more forward of the base path, one image, no guidance."""
    latents, recording = reference.latents[int(t)], AttentionRecord()
    paths.predict(latents, t, reference.text.conditional, BASE_PATH, None, recording)
    return Snapshot.of(recording, paths.backbone, latents, t, guidance_scale=1.0)
