"""Model families: text encoding, layer names, added conditioning, defaults. A new family is a new file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from concept_conductor.backbones.base import TILE, Backbone
from concept_conductor.backbones.components import check_components
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
    """Return the family that a pipeline's components belong to.

    Args:
        components: name -> model.
        what: what they are, for the message.

    Raises:
        FamilyError: they belong to none.
        ConductorError: they do, but compute in a way that the method does not honour.
    """
    for family in FAMILIES:
        if family.fits(components):
            check_components(components, what)
            return family
    known = ", ".join(family.name for family in reversed(FAMILIES))
    raise FamilyError(f"{what} is of no supported family; expected {known} (with all of its text encoders)")
