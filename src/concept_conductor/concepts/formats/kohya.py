"""kohya-ss LoRA and LoCon: ``lora_unet_LAYER.lora_down.weight``, ``lora_up`` and ``alpha``, the scale being alpha/rank.

LyCORIS's other kinds lie under the same names of layers (:mod:`lycoris`). Text encoders are ``lora_te_`` (SD),
``lora_te1_`` and ``lora_te2_`` (SDXL). Layers are spelt as in diffusers or as in Stability's own code, with ``_`` for
every ``.``.
"""

from __future__ import annotations

from pathlib import Path

import torch

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import lora_state
from concept_conductor.concepts.formats.lora_keys import ALPHA, DOWN, KOHYA, UP
from concept_conductor.concepts.formats.safetensors_writer import write_safetensors
from concept_conductor.concepts.formats.weight_file import WeightFile

KIND = "kohya-ss LoRA"

#: How the networks are called, for a concept of one text encoder and of two.
MODELS = (
    {"unet": "lora_unet", "text_encoder": "lora_te"},
    {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
)
PARTS = {"lora_A": DOWN, "lora_B": UP}


def recognises(file: WeightFile) -> bool:
    """Return whether most names start as kohya's do; a stray one among them is named by :func:`read`."""
    ours = sum(key.startswith(KOHYA) for key in file.content)
    return 2 * ours > len(file.content)


def read(file: WeightFile) -> ConceptPart:
    """Return the concept in a file of kohya's layout.

    Raises:
        ConceptFileError: tensors that are not parts of a layer's update, or of a layer that no family has.
    """
    return lora_state.concept(file, KIND)


def save(concept: ConceptPart, path: str | Path) -> Path:
    """Write kohya's layout, layers spelt as in diffusers, as A1111, ComfyUI and others read it.

    Raises:
        ConceptFileError: the concept has embeddings or whole weights.
    """
    models = MODELS[len(concept.text_encoders) > 1]
    state = {}
    for key, tensor in lora_state.state_dict(concept, KIND).items():
        name, half = key.removesuffix(".weight").rsplit(".", 1)
        model, _, layer = name.partition(".")
        name = f"{models[model]}_{layer.replace('.', '_')}"
        state[f"{name}.{PARTS[half]}"] = tensor
        if half == "lora_A":
            state[f"{name}.{ALPHA}"] = torch.tensor(float(len(tensor)))  # every scale is in the weights already
    return write_safetensors(path, state, concept.metadata)
