"""PEFT adapters: ``adapter_model.safetensors`` beside ``adapter_config.json``, a folder for each model.

A folder with ``unet``, ``text_encoder`` and ``text_encoder_2`` in it holds one concept (see :mod:`sources`).
"""

from __future__ import annotations

import re

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import lora_state, lycoris
from concept_conductor.concepts.formats.diffusers_lora import UNET_LAYERS
from concept_conductor.concepts.formats.peft_config import FILE, LORA, AdapterConfig
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.errors import ConceptFileError

KIND = "PEFT adapter"

PREFIX = "base_model.model."
HALVES = (".lora_A.weight", ".lora_B.weight")
TEXT_LAYERS = ("text_model.", "encoder.layers.", "text_projection.")


def recognises(file: WeightFile) -> bool:
    """Whether a name starts as PEFT's do."""
    return any(key.startswith(PREFIX) for key in file.content)


def read(file: WeightFile) -> ConceptPart:
    """The concept in an adapter's weights and the settings beside them.

    Raises:
        ConceptFileError: settings or tensors that are not those of a LoRA, LoHa or LoKr of a U-Net or text encoder.
    """
    config = AdapterConfig.read(file.path.with_name(FILE))
    model = _model(file)
    state = {f"{model}.{key.removeprefix(PREFIX)}": value for key, value in file.content.items()}
    if config.peft_type == LORA:
        return lora_state.concept(file, state, lambda _model, layer, rank: config.scale(layer, rank))
    prefix = re.compile(rf"{model}\.")
    pairs = lycoris.unfolded(
        file.path, state, HALVES, prefix, lambda layer, rank: config.scale(layer.removeprefix(f"{model}."), rank)
    )
    stray = next((key for key in state if key in pairs), None)
    if stray is not None:
        raise ConceptFileError(
            f"{file.path} has '{stray}', which is no part of an adapter of the kind {config.peft_type}"
        )
    return lora_state.concept(file, pairs)


def _model(file: WeightFile) -> str:
    """Which of a pipeline's models the adapter is for: its folder tells the text encoders apart."""
    layers = [key.removeprefix(PREFIX) if key.startswith(PREFIX) else f"({key})" for key in file.content]
    if all(layer.startswith(UNET_LAYERS) for layer in layers):
        return lora_state.UNET
    if all(layer.startswith(TEXT_LAYERS) for layer in layers):
        folder = file.path.parent.name
        return folder if folder in lora_state.TEXT_ENCODERS else lora_state.TEXT_ENCODERS[0]
    stray = next(layer for layer in layers if not layer.startswith(UNET_LAYERS))
    raise ConceptFileError(
        f"{file.path} has weights for '{stray}', which is no layer of a diffusers U-Net or CLIP text encoder"
    )
