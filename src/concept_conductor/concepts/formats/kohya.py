"""kohya-ss LoRA and LoCon: ``lora_unet_LAYER.lora_down.weight``, ``lora_up`` and ``alpha``, the scale being alpha/rank.

LyCORIS's other kinds lie under the same names of layers (:mod:`lycoris`).

Text encoders are ``lora_te_`` (SD), ``lora_te1_`` and ``lora_te2_`` (SDXL). Layers are spelt as in diffusers or, by
SDXL's trainers, as in Stability's own code; diffusers' converters know both.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.formats import lora_state, lycoris
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.errors import ConceptFileError
from concept_conductor.io.files import atomic_write

KIND = "kohya-ss LoRA"

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
ALPHA, DOWN, UP = ".alpha", ".lora_down.weight", ".lora_up.weight"
STABILITY_BLOCKS = ("input_blocks", "middle_block", "output_blocks")
DIFFUSERS_BLOCKS = ("down_blocks", "mid_block", "up_blocks")
OTHERS = ("conv_", "time_emb", "add_emb", "label_emb", "out_")
LAYERS = re.compile(
    rf"lora_unet_({'|'.join(STABILITY_BLOCKS + DIFFUSERS_BLOCKS + OTHERS)})|lora_te[12]?_(text|encoder)_"
)


def recognises(file: WeightFile) -> bool:
    """Whether most names start as kohya's do; a stray one among them is named by :func:`read`."""
    ours = sum(key.startswith(PREFIXES) for key in file.content)
    return 2 * ours > len(file.content)


def read(file: WeightFile) -> ConceptPart:
    """The concept in a file of kohya's layout.

    Raises:
        ConceptFileError: tensors that are not halves of a pair or a pair's alpha.
    """
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Diffusers  # here, because it takes seconds to load

    state = _checked_pairs(file)
    for blocks in (STABILITY_BLOCKS, DIFFUSERS_BLOCKS):
        if not any(name in key for key in state for name in blocks):
            break
    else:  # diffusers would drop one half without a word
        raise ConceptFileError(f"{file.path} names layers both in Stability's and in diffusers' way; split it in two")
    count = len(state)
    try:
        # Stability's blocks are numbered through; diffusers needs the layers per block, two in SDXL
        converted, _ = Diffusers.lora_state_dict(state, unet_config=SimpleNamespace(layers_per_block=2))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        stray = next(iter(state), "a layer")
        raise ConceptFileError(f"{file.path} has '{stray}', which names no layer as a {KIND} does") from error
    if len(converted) != count:
        raise ConceptFileError(
            f"{file.path} has {count} tensors that mean only {len(converted)}; two names mean the same layer"
        )
    return lora_state.concept(file, lora_state.peft_spelling(file, converted))


def save(concept: ConceptPart, path: str | Path) -> Path:
    """Write kohya's layout, layers spelt as in diffusers, as A1111, ComfyUI and others read it.

    Raises:
        ConceptFileError: the concept has embeddings or whole weights.
    """
    from diffusers.utils import convert_state_dict_to_kohya

    state = convert_state_dict_to_kohya(lora_state.state_dict(concept, KIND))
    with atomic_write(path) as file:
        file.write(safetensors_bytes(state, metadata=dict(concept.metadata)))
    return Path(path)


def _checked_pairs(file: WeightFile) -> dict[str, Any]:
    """The pairs alone, ``up`` multiplied by alpha/rank."""
    # the one layer whose name in diffusers its own converter cannot tell from its neighbour
    state = {
        key.replace("add_embedding_linear_1.", "label_emb_0_0.").replace(
            "add_embedding_linear_2.", "label_emb_0_2."
        ): value
        for key, value in lycoris.unfolded(file.path, file.content, (DOWN, UP), LAYERS).items()
    }
    for key in [key for key in state if key.endswith(ALPHA)]:
        layer, alpha = key.removesuffix(ALPHA), state.pop(key)
        down, up = state.get(layer + DOWN), state.get(layer + UP)
        if not (isinstance(down, Tensor) and isinstance(up, Tensor) and isinstance(alpha, Tensor)):
            raise ConceptFileError(f"{file.path} has '{key}' but no low-rank pair that it belongs to")
        if alpha.numel() != 1 or not alpha.isfinite().all() or down.ndim == 0:
            raise ConceptFileError(f"{file.path} has '{key}' of shape {tuple(alpha.shape)}; expected one finite number")
        state[layer + UP] = up.float() * (float(alpha) / max(len(down), 1))
    for key in state:
        partner = key.removesuffix(DOWN) + UP if key.endswith(DOWN) else key.removesuffix(UP) + DOWN
        if not key.startswith(PREFIXES) or partner not in state:
            raise ConceptFileError(
                f"{file.path} has '{key}', which is no half of a low-rank pair with its partner, as a {KIND} has them"
            )
    return state
