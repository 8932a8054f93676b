"""Model families: text encoding, layer names, added conditioning, defaults. A new family is a new file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from concept_conductor.backbones.base import TILE, Backbone
from concept_conductor.backbones.defaults import Defaults, read_model_settings
from concept_conductor.backbones.sd15 import SD15Backbone
from concept_conductor.backbones.sd21 import SD21Backbone
from concept_conductor.backbones.sdxl import SDXLBackbone
from concept_conductor.errors import FamilyError

__all__ = [
    "FAMILIES",
    "TILE",
    "Backbone",
    "Defaults",
    "SD15Backbone",
    "SD21Backbone",
    "SDXLBackbone",
    "family_of",
    "read_model_settings",
]

#: Asked in this order; SD1.5 takes what has one CLIP text encoder of any width.
FAMILIES: tuple[type[Backbone], ...] = (SDXLBackbone, SD21Backbone, SD15Backbone)


def family_of(components: Mapping[str, Any], what: str) -> type[Backbone]:
    """The family that a pipeline's components belong to.

    Args:
        components: name -> model.
        what: what they are, for the message.

    Raises:
        FamilyError: none.
    """
    for family in FAMILIES:
        if family.fits(components):
            channels = components["unet"].config.in_channels
            if channels != components["vae"].config.latent_channels:
                raise FamilyError(
                    f"{what} takes {channels} channels (an inpainting model?); expected a text-to-image {family.name}"
                )
            return family
    known = ", ".join(family.name for family in reversed(FAMILIES))
    raise FamilyError(f"{what} is of no supported family; expected {known} (with all of its text encoders)")
