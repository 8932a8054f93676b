"""Custom Diffusion as diffusers writes it: whole key and value weights of the cross-attention layers.

``LAYER.processor.to_k_custom_diffusion.weight (out, in)``; its tokens lie in files of their own, ``<new1>.bin``, which
are textual inversions: give the folder, or both files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from concept_conductor.concepts.data import ConceptPart, FullWeight, Update
from concept_conductor.concepts.formats import validation
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.errors import ConceptFileError

KIND = "Custom Diffusion"

KEY = re.compile(r"(.+)\.processor\.(to_[kqv]|to_out)_custom_diffusion(\.0)?\.weight")


def recognises(file: WeightFile) -> bool:
    """Return whether there is one of its weights in it."""
    return any("_custom_diffusion." in key for key in file.content)


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in a file of Custom Diffusion's weights.

    Raises:
        ConceptFileError: anything but whole weights of attention layers.
    """
    unet: dict[str, Update] = {}
    for key, value in file.content.items():
        if isinstance(value, Mapping) and not value:
            continue  # diffusers' mark for an attention layer that was not trained
        match = KEY.fullmatch(key)
        if match is None:
            what = "a trained bias" if key.endswith(".bias") else "not one of its weights"
            raise ConceptFileError(f"{file.path} has '{key}', which is {what}; only weights of attention can be used")
        layer, linear, index = match.groups()
        unet[f"{layer}.{linear}{index or ''}"] = FullWeight(validation.matrix(file.path, key, value))
    return ConceptPart(name=file.name, unet=unet)
