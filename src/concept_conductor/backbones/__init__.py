"""Model families: text encoding, layer names, added conditioning, defaults. A new family is a new file."""

from __future__ import annotations

from concept_conductor.backbones.base import Backbone, Defaults, read_model_settings
from concept_conductor.backbones.sd15 import SD15Backbone

__all__ = ["Backbone", "Defaults", "SD15Backbone", "read_model_settings"]
