"""Names of tensors in LoRA files: which network, which layer of it, and which part of that layer's update."""

from __future__ import annotations

import re
from typing import NamedTuple

from concept_conductor.concepts.layer_names import TEXT_ENCODERS, UNET, WRAPPERS, resolve

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"

#: How names start in Stability's layer names, which ComfyUI writes.
COMFYUI = ("diffusion_model.", "model.diffusion_model.", "text_encoders.", "clip_l.", "clip_g.", "clip_h.")
KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_")
#: How names start that do not leave the network to be told by the layer's name.
PREFIXES = {
    UNET: re.compile(r"unet\.|lora_unet_|lycoris_|(model\.)?diffusion_model\."),
    TEXT_ENCODERS[0]: re.compile(r"text_encoder(_1|_one)?\.|lora_te1?_|(text_encoders\.)?clip_[lh]\."),
    TEXT_ENCODERS[1]: re.compile(r"text_encoder_(2|two)\.|lora_te2_|(text_encoders\.)?clip_g\."),
}
#: The halves of a low-rank pair in every spelling there has been, PEFT's with the adapter's name, and other parts.
PART = re.compile(
    r"(?P<layer>.+?)(?:"
    r"[._]lora(?:_linear_layer)?[._](?P<half>down|up|A|B)(?:\.\w+)?\.weight"
    r"|\.(?P<part>alpha|lora_mid\.weight|hada_\w+|lokr_\w+|diff))"
)
HALVES = {"down": DOWN, "A": DOWN, "up": UP, "B": UP}


class LoraKey(NamedTuple):
    """What a tensor's name says.

    Attributes:
        model: ``unet``, ``text_encoder`` or ``text_encoder_2``.
        layer: of that network, as diffusers or transformers call it; as the file does where no family has it.
        part: of the layer's update: ``lora_down.weight``, ``lora_up.weight``, ``alpha``, or one of LyCORIS's.
        known: whether a network of the families can have that layer.
    """

    model: str
    layer: str
    part: str
    known: bool


def parse(key: str) -> LoraKey | None:
    """Return what a tensor's name says; None where it is no part of a low-rank update of any network."""
    match = PART.fullmatch(key)
    if match is None:
        return None
    name, part = WRAPPERS.sub("", match["layer"]), match["part"] or HALVES[match["half"]]
    for model, prefix in PREFIXES.items():
        if start := prefix.match(name):
            spelling = name[start.end() :]
            layer = resolve(model, spelling)
            return LoraKey(model, layer or spelling, part, layer is not None)
    layer = resolve(UNET, name)  # the oldest files name no network
    return None if layer is None else LoraKey(UNET, layer, part, True)
