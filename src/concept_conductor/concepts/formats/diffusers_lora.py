"""diffusers' LoRA files, ``pytorch_lora_weights.safetensors``, in every spelling diffusers has had.

``unet.LAYER.lora_A.weight`` and ``lora_B`` (today's), ``unet.LAYER.lora.down.weight`` and ``lora.up``,
``text_encoder.LAYER.lora_linear_layer.down.weight``, and the oldest, ``LAYER.processor.to_q_lora.down.weight``.
"""

from __future__ import annotations

from pathlib import Path

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import lora_keys, lora_state
from concept_conductor.concepts.formats.peft_config import AdapterConfig
from concept_conductor.concepts.formats.safetensors_writer import write_safetensors
from concept_conductor.concepts.formats.weight_file import SETTINGS, WeightFile, parsed_json
from concept_conductor.concepts.layer_names import TEXT_ENCODERS, UNET
from concept_conductor.errors import ConceptFileError

KIND = "diffusers LoRA"

MODELS = tuple(f"{model}." for model in (UNET, *TEXT_ENCODERS))


def recognises(file: WeightFile) -> bool:
    """Return whether there is a part of an update of a network's layer in it."""
    return any(lora_keys.parse(key) is not None for key in file.content)


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in a file that diffusers has written.

    Raises:
        ConceptFileError: tensors that are not parts of a layer's update, or settings that are not plain low rank.
    """
    return lora_state.concept(file, KIND, scale=_scale(file))


def save(concept: ConceptPart, path: str | Path) -> Path:
    """Write what ``load_lora_weights`` reads.

    Raises:
        ConceptFileError: the concept has embeddings or whole weights.
    """
    return write_safetensors(path, lora_state.state_dict(concept, KIND), {**concept.metadata, "format": "pt"})


def _scale(file: WeightFile) -> lora_state.Scale | None:
    """Return the scale that the header's own settings give; without them it is 1, as in diffusers."""
    text = file.metadata.get(SETTINGS)
    if text is None:
        return None
    entries = parsed_json(file.path, SETTINGS, text)
    if not isinstance(entries, dict):
        raise ConceptFileError(f"{file.path} has damaged metadata: '{SETTINGS}' is no table")
    stray = next((key for key in entries if not key.startswith(MODELS)), None)
    if stray is not None:
        raise ConceptFileError(
            f"{file.path} has the setting {stray!r:.60} in '{SETTINGS}', which is none of a U-Net's or text encoder's "
            "adapter; expected names such as 'unet.r'"
        )
    configs = {
        prefix: AdapterConfig.parsed(
            file.path, {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
        )
        for prefix in MODELS
        if any(key.startswith(prefix) for key in entries)
    }

    def scale(model: str, layer: str, rank: int | None) -> float:
        config = configs.get(f"{model}.")
        return 1.0 if config is None else config.scale(layer, rank)

    return scale
