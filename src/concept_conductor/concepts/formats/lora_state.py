"""LoRA state dicts in the spelling that diffusers and PEFT share: ``unet.LAYER.lora_A.weight`` and ``lora_B``.

Readers of LoRA formats bring their keys into this spelling with diffusers' own converters, writers start from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from concept_conductor.concepts.data import ConceptPart, FullWeight, LowRank, Update
from concept_conductor.concepts.formats import metadata, validation
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.errors import ConceptFileError

UNET, TEXT_ENCODERS = "unet", ("text_encoder", "text_encoder_2")
KEY = re.compile(rf"({UNET}|{'|'.join(TEXT_ENCODERS)})\.(.+)\.lora_([AB])\.weight")
TEXT_PREFIX = "text_model."
#: The U-Nets' convolutions of 3x3; the others are 1x1.
CONVOLUTION = re.compile(r"(^|\.)conv(1|2|_in|_out)?$")
KERNEL = (3, 3)

#: Model, layer and rank -> what the update is multiplied by.
Scale = Callable[[str, str, int], float]


def one(_model: str, _layer: str, _rank: int) -> float:
    """The scale of a file that says nothing of it."""
    return 1.0


def peft_spelling(file: WeightFile, state: Mapping[str, Any]) -> dict[str, Any]:
    """All of diffusers' spellings brought into PEFT's; keys start with the model's name.

    Raises:
        ConceptFileError: two keys mean the same layer.
    """
    from diffusers.utils import state_dict_utils as diffusers  # here, because it takes seconds to load

    spelt: dict[str, Any] = {}
    for model in (UNET, *TEXT_ENCODERS):
        part = {key: value for key, value in state.items() if key.startswith(f"{model}.")}
        if model == UNET:
            spelt |= diffusers.convert_unet_state_dict_to_peft(part)
        else:
            for kind in (diffusers.StateDictType.DIFFUSERS_OLD, diffusers.StateDictType.DIFFUSERS):
                part = diffusers.convert_state_dict_to_peft(part, original_type=kind)
            spelt |= part
    if len(spelt) != len(state):
        raise ConceptFileError(
            f"{file.path} has {len(state)} tensors but means {len(spelt)}: some name no layer, or the same one twice"
        )
    return spelt


def concept(file: WeightFile, state: Mapping[str, Any], scale: Scale = one) -> ConceptPart:
    """The concept that a state dict in PEFT's spelling holds.

    Raises:
        ConceptFileError: a key that is no half of a pair, or a half without its partner.
    """
    halves: dict[tuple[str, str], dict[str, Any]] = {}
    for key, value in state.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ConceptFileError(
                f"{file.path} has '{key}', which is no low-rank weight of a U-Net or text encoder; it cannot be used"
            )
        model, layer, half = match.groups()
        if model != UNET:
            layer = layer.removeprefix(TEXT_PREFIX)
        pair = halves.setdefault((model, layer), {})
        if half in pair:
            raise ConceptFileError(f"{file.path} has the weights of '{model}.{layer}' twice; the file is malformed")
        pair[half] = value
    updates: dict[str, dict[str, Update]] = {model: {} for model in (UNET, *TEXT_ENCODERS)}
    for (model, layer), pair in halves.items():
        if len(pair) != 2:
            raise ConceptFileError(f"{file.path} has only one half of the low-rank pair of '{model}.{layer}'")
        update = validation.low_rank(file.path, f"{model}.{layer}", pair["A"], pair["B"])
        if model == UNET and CONVOLUTION.search(layer):
            update = with_kernel(update)
        factor = scale(model, layer, update.rank)
        updates[model][layer] = update if factor == 1 else update.scaled(factor)
    return ConceptPart(
        name=file.name,
        text_encoders=tuple(updates[model] for model in TEXT_ENCODERS if updates[model] or model == TEXT_ENCODERS[0]),
        unet=updates[UNET],
        metadata=metadata.metadata(file),
    )


def with_kernel(update: LowRank) -> LowRank:
    """A convolution's update whose lower half is written as a matrix, as LyCORIS writes products."""
    down = update.down
    if down.ndim != 2 or down.shape[1] % math.prod(KERNEL):
        return update
    return update._replace(down=down.unflatten(1, (-1, *KERNEL)))


def state_dict(concept: ConceptPart, format: str) -> dict[str, Tensor]:
    """A concept's weights in PEFT's spelling, convolutions with both kernels, on the CPU.

    Raises:
        ConceptFileError: it has more than low-rank weights, which ``format`` cannot hold.
    """
    if concept.placeholders:
        raise ConceptFileError(
            f"a {format} file holds low-rank weights only, but the concept '{concept.name}' has embeddings for "
            f"{' '.join(concept.placeholders)}; convert it to 'ours' or, if it is an ED-LoRA, to 'mixofshow'"
        )
    state = {}
    for model, layers in zip((UNET, *TEXT_ENCODERS), (concept.unet, *concept.text_encoders)):
        for layer, update in layers.items():
            name = layer if model == UNET or layer == "text_projection" else TEXT_PREFIX + layer
            down, up = _pair(concept, layer, update, format)
            state[f"{model}.{name}.lora_A.weight"] = down.detach().cpu().contiguous()
            state[f"{model}.{name}.lora_B.weight"] = up.detach().cpu().contiguous()
    return state


def _pair(concept: ConceptPart, layer: str, update: Update, format: str) -> LowRank:
    if isinstance(update, FullWeight):
        raise ConceptFileError(
            f"the concept '{concept.name}' has a whole weight for '{layer}' (Custom Diffusion), which a {format} file "
            "cannot hold; convert it to 'ours'"
        )
    return update if update.down.ndim == 2 else update._replace(up=update.up[..., None, None])
