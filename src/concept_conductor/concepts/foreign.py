"""Kinds of files that hold no ED-LoRA, told by their names of tensors, so that a refusal can name them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from concept_conductor.concepts.container import WeightFile

Test = Callable[[frozenset[str]], bool]


def _any(*parts: str) -> Test:
    return lambda keys: any(part in key for key in keys for part in parts)


#: Kind -> whether the tensors' names are of that kind; the first that fits counts.
KINDS: dict[str, Test] = {
    "LyCORIS (LoHa, LoKr or the like)": _any(".hada_w1", ".lokr_w1", ".oft_blocks", ".glora_"),
    "DoRA": _any(".dora_scale", "lora_magnitude_vector"),
    "kohya-ss LoRA": _any("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_"),
    "PEFT adapter": _any("base_model.model."),
    "diffusers LoRA": _any(".lora_A.", ".lora_B.", ".lora_linear_layer.", ".processor.to_q_lora", ".lora.down."),
    "textual inversion": _any("string_to_param", "emb_params", "clip_l", "clip_g"),
    "whole checkpoint": _any("model.diffusion_model.", "first_stage_model.", "cond_stage_model."),
    "diffusers U-Net": _any("time_embedding.linear_1"),
}


def kind(file: WeightFile) -> str | None:
    """What the file is called in its own world, if that is known."""
    keys = frozenset(_names(file.content))
    for name, fits in KINDS.items():
        if fits(keys):
            return name
    single = [key for key in file.content if key.startswith("<") and key.endswith(">")]
    return "textual inversion" if single and len(single) == len(file.content) else None


def _names(content: Mapping[str, object], prefix: str = "") -> list[str]:
    names = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        names.append(name)
        if isinstance(value, Mapping):
            names += _names(value, f"{name}.")
    return names
