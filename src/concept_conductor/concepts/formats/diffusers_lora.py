"""diffusers' LoRA files, ``pytorch_lora_weights.safetensors``, in every spelling diffusers has had.

``unet.LAYER.lora_A.weight`` and ``lora_B`` (today's), ``unet.LAYER.lora.down.weight`` and ``lora.up``,
``text_encoder.LAYER.lora_linear_layer.down.weight``, and the oldest, ``LAYER.processor.to_q_lora.down.weight``.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save as safetensors_bytes

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import lora_state
from concept_conductor.concepts.formats.peft_config import AdapterConfig
from concept_conductor.concepts.formats.weight_file import WeightFile, parsed_json
from concept_conductor.errors import ConceptFileError
from concept_conductor.io.files import atomic_write

KIND = "diffusers LoRA"

#: Under this name the header keeps the adapter's settings, keys starting with the model's name.
SETTINGS = "lora_adapter_metadata"
MODELS = tuple(f"{model}." for model in (lora_state.UNET, *lora_state.TEXT_ENCODERS))
HALVES = (".lora_A.", ".lora_B.", ".lora.", ".lora_linear_layer.", "_lora.down.", "_lora.up.")
#: How a U-Net's layers start; the oldest files do not name the model.
UNET_LAYERS = ("down_blocks.", "mid_block.", "up_blocks.", "conv_in.", "conv_out.", "time_embedding.", "add_embedding.")


def recognises(file: WeightFile) -> bool:
    """Whether there is a low-rank half of a model's layer in it."""
    return any(key.startswith(MODELS + UNET_LAYERS) and any(half in key for half in HALVES) for key in file.content)


def read(file: WeightFile) -> ConceptPart:
    """The concept in a file that diffusers has written.

    Raises:
        ConceptFileError: tensors that are no halves of a pair, or settings that are not plain low rank.
    """
    named = {
        f"{lora_state.UNET}.{key}" if key.startswith(UNET_LAYERS) else key: value for key, value in file.content.items()
    }
    stray = next((key for key in named if not key.startswith(MODELS)), None)
    if stray is not None or len(named) != len(file.content):
        raise ConceptFileError(f"{file.path} has '{stray}', which belongs to no model's layer; it cannot be used")
    return lora_state.concept(file, lora_state.peft_spelling(file, named), _scale(file))


def save(concept: ConceptPart, path: str | Path) -> Path:
    """Write what ``load_lora_weights`` reads.

    Raises:
        ConceptFileError: the concept has embeddings or whole weights.
    """
    state = lora_state.state_dict(concept, KIND)
    with atomic_write(path) as file:
        file.write(safetensors_bytes(state, metadata={**concept.metadata, "format": "pt"}))
    return Path(path)


def _scale(file: WeightFile) -> lora_state.Scale:
    """The scale that the header's own settings give; without them it is 1, as in diffusers."""
    text = file.metadata.get(SETTINGS)
    if text is None:
        return lora_state.one
    entries = parsed_json(file.path, SETTINGS, text)
    if not isinstance(entries, dict):
        raise ConceptFileError(f"{file.path} has damaged metadata: '{SETTINGS}' is no table")
    configs = {
        prefix: AdapterConfig.parsed(
            file.path, {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
        )
        for prefix in MODELS
        if any(key.startswith(prefix) for key in entries)
    }

    def scale(model: str, layer: str, rank: int) -> float:
        config = configs.get(f"{model}.")
        return 1.0 if config is None else config.scale(layer, rank)

    return scale
