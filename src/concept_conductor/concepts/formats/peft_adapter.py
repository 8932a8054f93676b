"""PEFT adapters: ``adapter_model.safetensors`` beside ``adapter_config.json``, a folder for each model.

A folder with ``unet``, ``text_encoder`` and ``text_encoder_2`` in it holds one concept (see :mod:`sources`).
"""

from __future__ import annotations

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import lora_keys, lora_state, lycoris
from concept_conductor.concepts.formats.peft_config import FILE, LORA, AdapterConfig
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.concepts.layer_names import TEXT_ENCODERS, UNET
from concept_conductor.errors import ConceptFileError

KIND = "PEFT adapter"

PREFIX = "base_model.model."
#: Folders of adapters for one model, called as in diffusers or as in its training scripts -> the model.
FOLDERS = {
    UNET: UNET,
    **dict.fromkeys((TEXT_ENCODERS[0], "text_encoder_1", "text_encoder_one"), TEXT_ENCODERS[0]),
    **dict.fromkeys((TEXT_ENCODERS[1], "text_encoder_two"), TEXT_ENCODERS[1]),
}


def recognises(file: WeightFile) -> bool:
    """Return whether a name starts as PEFT's do."""
    return any(key.startswith(PREFIX) for key in file.content)


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in an adapter's weights and the settings beside them.

    Raises:
        ConceptFileError: settings or tensors that are not those of a LoRA, LoHa or LoKr of a U-Net or text encoder.
    """
    config = AdapterConfig.read(file.path.with_name(FILE))
    model = _model(file)
    content = {f"{model}.{key}": value for key, value in file.content.items()}
    for key in content:
        found = lora_keys.parse(key)
        if found is not None and (lycoris.kind_of([found.part]) is None) is not (config.peft_type == LORA):
            raise ConceptFileError(
                f"{file.path} has '{key}', which is no part of an adapter of the kind {config.peft_type}"
            )
    return lora_state.concept(file, KIND, content, lambda _model, layer, rank: config.scale(layer, rank))


def _model(file: WeightFile) -> str:
    """Return which of a pipeline's models the adapter is for: its folder tells the text encoders apart."""
    folder = FOLDERS.get(file.path.parent.name)
    candidates = (UNET, TEXT_ENCODERS[0] if folder in (None, UNET) else folder)
    for model in candidates:
        parsed = (lora_keys.parse(f"{model}.{key}") for key in file.content if key.startswith(PREFIX))
        if any(found is not None and found.known for found in parsed):
            return model
    return folder or UNET
