"""Stable Diffusion 2.x: SD1.5's U-Net over a wider text (OpenCLIP ViT-H), mostly predicting velocity.

Diffusers' checkpoints have the text encoder already cut after its last but one layer, so its output is read as
SD1.5's is. What the model predicts is in the scheduler's configuration, which sampling, inversion and training heed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from concept_conductor.backbones.defaults import Defaults, TrainingDefaults
from concept_conductor.backbones.sd15 import SD15_DEFAULTS, SD15Backbone

TEXT_WIDTH = 1024

# The paper has no values for this family: SD1.5's, whose U-Net has the same layers, and a norm between those of
# SDXL's encoders, in proportion to the width.
SD21_DEFAULTS = SD15_DEFAULTS.model_copy(update={"training": TrainingDefaults(norm_threshold=(1.3,))})


class SD21Backbone(SD15Backbone):
    """SD2.1 as the method sees it."""

    family = "sd21"
    name = "SD2.1"
    family_defaults: ClassVar[Defaults] = SD21_DEFAULTS

    @classmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        return super().fits(components) and components["unet"].config.cross_attention_dim == TEXT_WIDTH
