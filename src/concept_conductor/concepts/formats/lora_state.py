"""LoRA files: each tensor's name says network, layer and part; the parts of a layer are its low-rank update."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from concept_conductor.concepts.data import ConceptPart, FullWeight, LowRank, Update
from concept_conductor.concepts.formats import lora_keys, lycoris, metadata, validation
from concept_conductor.concepts.formats.lora_keys import ALPHA, DOWN, UP
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.concepts.layer_names import TEXT_ENCODERS, UNET
from concept_conductor.errors import ConceptFileError

TEXT_PREFIX = "text_model."
#: The U-Nets' convolutions of 3x3; the others are 1x1.
CONVOLUTION = re.compile(r"(^|\.)conv(1|2|_in|_out)?$")
KERNEL = (3, 3)

#: Network, layer and rank (None where the factors are whole) -> what the update is multiplied by. A ValueError says
#: why there is no such number, its message going on after "a layer".
Scale = Callable[[str, str, int | None], float]


def concept(
    file: WeightFile, kind: str, content: Mapping[str, Any] | None = None, scale: Scale | None = None
) -> ConceptPart:
    """Return the concept in a LoRA file.

    Args:
        file: where it is read from, for its name and header.
        kind: of file, for messages.
        content: name -> tensor; None for the file's own.
        scale: what settings say; None for the scale that lies beside the weights, alpha over rank, or else 1.

    Raises:
        ConceptFileError: a tensor that is no part of an update, an update with a part too few or too many, or one of a
            layer that no network of the families has.
    """
    content = file.content if content is None else content
    updates: dict[str, dict[str, Update]] = {model: {} for model in (UNET, *TEXT_ENCODERS)}
    numbers = 0
    for (model, layer), names in _by_layer(file, kind, content).items():
        update = _update(file, f"{model}.{layer}", {part: content[key] for part, key in names.items()}, names, scale)
        if lycoris.kind_of(names) is not None:
            numbers += update.down.numel() + update.up.numel()
            if numbers > lycoris.MAX_NUMBERS:
                raise _misfit(file, names, "which is too large together with those before it")
        updates[model][layer] = update
    return ConceptPart(
        name=file.name,
        text_encoders=tuple(updates[model] for model in TEXT_ENCODERS if updates[model] or model == TEXT_ENCODERS[0]),
        unet=updates[UNET],
        metadata=metadata.metadata(file),
    )


def state_dict(concept: ConceptPart, format: str) -> dict[str, Tensor]:
    """Return a concept's weights in PEFT's spelling, convolutions with both kernels, on the CPU.

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
            if isinstance(update, FullWeight):
                raise ConceptFileError(
                    f"the concept '{concept.name}' has a whole weight for '{layer}' (Custom Diffusion), which a "
                    f"{format} file cannot hold; convert it to 'ours'"
                )
            up = update.up if update.down.ndim == 2 else update.up[..., None, None]
            state[f"{model}.{name}.lora_A.weight"] = update.down
            state[f"{model}.{name}.lora_B.weight"] = up
    return state


def _by_layer(file: WeightFile, kind: str, content: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, str]]:
    """Return network and layer -> part -> the tensor's name in the file."""
    layers: dict[tuple[str, str], dict[str, str]] = {}
    unknown: tuple[str, str] | None = None
    for key in content:
        found = lora_keys.parse(key)
        if found is None:
            raise ConceptFileError(
                f"{file.path} has '{key}', which is no low-rank weight of a U-Net or text encoder as a {kind} has "
                "them; it cannot be used"
            )
        if not found.known:
            unknown = unknown or (found.model, found.layer)
        names = layers.setdefault((found.model, found.layer), {})
        if found.part in names:
            raise ConceptFileError(
                f"{file.path} has weights of one layer twice, as '{names[found.part]}' and as '{key}'; only one of "
                "them can be used"
            )
        names[found.part] = key
    if unknown is not None:
        names = layers[unknown]
        other = lycoris.kind_of(names)
        of_kind = "" if other is None else f" of the kind '{other}', which is not plain low rank,"
        raise ConceptFileError(
            f"{file.path} has '{next(iter(names.values()))}'{of_kind} for a layer '{unknown[1]}', but no U-Net or text "
            "encoder of SD1.5, SD2.1 or SDXL has a linear layer or convolution of that name"
        )
    return layers


def _update(
    file: WeightFile, layer: str, parts: dict[str, Any], names: Mapping[str, str], scale: Scale | None
) -> LowRank:
    """Return the low-rank update that the ``parts`` of a layer mean, with all scales folded in.

    Args:
        file: where they are from.
        layer: network and layer, as ``unet.mid_block...``.
        parts: name of a part -> tensor.
        names: name of a part -> its name in the file.
        scale: what settings say, if there are any.
    """
    alpha = parts.pop(ALPHA, None)
    kind = lycoris.kind_of(parts)
    if kind is None:
        pair = _pair(file, layer, parts, names)
        rank: int | None = pair.rank
    else:
        pair, rank = _unfolded(file, kind, parts, names)
    if alpha is not None:
        number = validation.scalar(file.path, names[ALPHA], alpha)
        if scale is not None or kind == lycoris.FULL:
            beside = "settings that say how strong it is" if scale is not None else f"a {kind}, which has none"
            raise ConceptFileError(f"{file.path} has '{names[ALPHA]}' beside {beside}; only one of both can count")
        factor = 1.0 if rank is None else number / rank
    else:
        factor = 1.0 if scale is None else _told(file, layer, rank, scale)
    if factor != 1:
        pair = pair.scaled(factor)
        validation.finite(file.path, f"{layer} (up), multiplied by its scale {factor:g}", pair.up)
    return with_kernel(pair) if layer.startswith(f"{UNET}.") and CONVOLUTION.search(layer) else pair


def _pair(file: WeightFile, layer: str, parts: Mapping[str, Any], names: Mapping[str, str]) -> LowRank:
    if not parts:
        raise ConceptFileError(f"{file.path} has '{names[ALPHA]}' but no low-rank pair that it belongs to")
    if len(parts) == 1:
        (part,) = parts
        raise ConceptFileError(
            f"{file.path} has only one half of the low-rank pair of '{layer}', '{names[part]}', and not its partner"
        )
    return validation.low_rank(file.path, layer, parts[DOWN], parts[UP])


def _unfolded(
    file: WeightFile, kind: str, parts: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[LowRank, int | None]:
    """Return what is not plain low rank as the low-rank update that it is, and its factors' rank."""
    for part in parts:
        if part not in lycoris.PARTS[kind][1]:
            raise ConceptFileError(f"{file.path} has '{names[part]}', which is no part of a {kind}")
    expected = f"a part of a {kind}"
    tensors = {
        part: validation.numbers(file.path, names[part], value, (2, 4), expected).float()
        for part, value in parts.items()
    }
    try:
        pair, rank = lycoris.unfold(kind, tensors)
    except KeyError as error:
        raise _misfit(file, names, f"without its part {error}") from error
    except lycoris.MisfitError as error:
        shapes = ", ".join(f"{part} {'x'.join(map(str, tensor.shape))}" for part, tensor in tensors.items())
        raise _misfit(file, names, f"{error} ({shapes})") from error
    for half in pair:
        validation.finite(file.path, next(iter(names.values())), half)
    return pair, rank


def _misfit(file: WeightFile, names: Mapping[str, str], reason: str) -> ConceptFileError:
    return ConceptFileError(
        f"{file.path} has '{next(iter(names.values()))}' of a layer of the kind '{lycoris.kind_of(names)}', which is "
        f"not plain low rank, {reason}"
    )


def _told(file: WeightFile, layer: str, rank: int | None, scale: Scale) -> float:
    """Return what the settings beside the weights say of a layer."""
    model, _, name = layer.partition(".")
    try:
        return scale(model, name, rank)
    except ValueError as error:
        raise ConceptFileError(f"{file.path} has weights for '{layer}', a layer {error}") from error


def with_kernel(update: LowRank) -> LowRank:
    """Return a convolution's update whose lower half is written as a matrix, as LyCORIS writes products."""
    down = update.down
    if down.ndim != 2 or down.shape[1] % math.prod(KERNEL):
        return update
    return update._replace(down=down.unflatten(1, (-1, *KERNEL)))
