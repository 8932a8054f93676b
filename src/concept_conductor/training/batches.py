"""Which samples a training step sees."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.training.augmentation import Placing, canvas, place_subject
from concept_conductor.training.captions import TEMPLATES, varied, with_placeholders
from concept_conductor.training.config import TrainingConfig
from concept_conductor.training.dataset import Example
from concept_conductor.training.plan import Plan

#: Latents of images already seen are kept, this many bytes of them.
KEPT_LATENTS = 256 * 1024**2


@dataclass(frozen=True)
class Batch:
    """One step's samples.

    Attributes:
        latents: ``(B, 4, h, w)``.
        mask: ``(B, 1, H, W)`` of 0 and 1, at the images' resolution.
        prompts: with the placeholders.
    """

    latents: Tensor
    mask: Tensor
    prompts: list[str]


class Batches:
    """Draws samples of the examples; each step from a stream of its own."""

    def __init__(self, backbone: Backbone, config: TrainingConfig, plan: Plan, examples: list[Example]) -> None:
        self.backbone = backbone
        self.config = config
        self.plan = plan
        self.examples = examples
        self._latents: dict[tuple[int, Placing], Tensor] = {}

    def draw(self, step: int, random: Random) -> Batch:
        """Draw the samples of a step, counted from 0; every image comes once before any comes again."""
        config, plan, count = self.config, self.plan, len(self.examples)
        templates = config.augmentation.templates
        templates = TEMPLATES[templates] if isinstance(templates, str) else templates
        latents, masks, prompts = [], [], []
        for number in range(step * plan.batch, (step + 1) * plan.batch):
            order = Random(f"{config.seed}/order/{number // count}").sample(range(count), count)
            index = order[number % count]
            example = self.examples[index]
            placing = place_subject(example, plan.resolution, config.augmentation, random)
            pixels, mask = canvas(example, placing, plan.resolution)
            latents.append(self._encoded(index, placing, pixels))
            masks.append(mask)
            caption = varied(example.caption, templates, config.augmentation.shuffle, random)
            prompts.append(with_placeholders(caption, config.placeholders))
        return Batch(torch.cat(latents), torch.stack(masks).to(self.backbone.device), prompts)

    def _encoded(self, index: int, placing: Placing, pixels: Tensor) -> Tensor:
        """Encode one image; return latents ``(1, 4, h, w)``.

        Encoded one by one, since an image's latents differ by rounding from batch to batch, and those of square
        images, which can be placed in few ways, are kept.
        """
        key = (index, placing)
        if key in self._latents:
            return self._latents[key]
        latents = self.backbone.encode_image(pixels[None])
        if sum(kept.nbytes for kept in self._latents.values()) < KEPT_LATENTS:
            self._latents[key] = latents
        return latents
