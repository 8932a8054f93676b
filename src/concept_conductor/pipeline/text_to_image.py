"""Plain images of a pipeline, without concepts or a layout, for layouts that are generated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

from concept_conductor.pipeline.pipeline import ConceptConductorPipeline


@dataclass(frozen=True)
class PlainImages:
    """Generate plain images with a pipeline, without concepts or a layout.

    Attributes:
        pipe: loaded.
        steps, guidance_scale, negative_prompt: as for the pipeline.
        width, height: in pixels; None for the model's own size.
    """

    pipe: ConceptConductorPipeline
    steps: int = 50
    guidance_scale: float = 7.5
    negative_prompt: str | None = None
    width: int | None = None
    height: int | None = None

    def __call__(self, prompt: str, seed: int) -> Image.Image:
        images, _ = self.pipe(
            prompt=prompt,
            negative_prompt=self.negative_prompt,
            width=self.width,
            height=self.height,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            return_dict=False,
        )
        image = images[0]
        assert isinstance(image, Image.Image)
        return image
