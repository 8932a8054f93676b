"""LoRA files in Stability's layer names with their dots, as ComfyUI saves what it extracts or merges.

``diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.lora_up.weight`` for the U-Net, and
``text_encoders.clip_l.transformer.text_model.encoder.layers...`` for CLIP (``clip_g``: SDXL's second).
"""

from __future__ import annotations

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import lora_state
from concept_conductor.concepts.formats.lora_keys import COMFYUI, PART
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.concepts.layer_names import WRAPPERS

KIND = "LoRA in Stability's layer names (ComfyUI)"


def recognises(file: WeightFile) -> bool:
    """Return whether there is a part of an update under one of its names."""
    return any(WRAPPERS.sub("", key).startswith(COMFYUI) and PART.fullmatch(key) for key in file.content)


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in such a file.

    Raises:
        ConceptFileError: tensors that are not parts of a layer's update, or of a layer that no family has.
    """
    return lora_state.concept(file, KIND)
