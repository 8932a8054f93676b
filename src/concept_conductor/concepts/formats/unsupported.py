"""Kinds of files that cannot be read, told by their names of tensors, so that a refusal can name them."""

from __future__ import annotations

import re

from concept_conductor.concepts.formats import architectures, lora_keys
from concept_conductor.concepts.formats.weight_file import WeightFile

NOT_LOW_RANK = "not plain low rank"
NOT_A_CONCEPT = "no concept"
OTHER_MODELS = "made for models of another architecture"

#: Kind -> (names that only it has, why it cannot be read); the first that fits counts.
KINDS: dict[str, tuple[str, str]] = {
    "GLoRA (LyCORIS)": (r"\.glora_|^lora_\w+\.[ab][12]\.weight$", NOT_LOW_RANK),
    "OFT": (r"\.oft_(blocks|diag|R)", NOT_LOW_RANK),
    "BOFT": (r"\.boft_", NOT_LOW_RANK),
    "(IA)^3": (r"\.on_input$|\.ia3_l", NOT_LOW_RANK),
    "VeRA": (r"\.vera_lambda_", NOT_LOW_RANK),
    "KaSA": (r"\.lora_diag\b", NOT_LOW_RANK),
    "DoRA": (r"\.dora_scale$|lora_magnitude_vector", NOT_LOW_RANK),
    "trained biases and norms (LyCORIS)": (r"\.(diff_b|w_norm|b_norm)$", NOT_LOW_RANK),
    "IP-Adapter": (r"^ip_adapter\b|^image_proj\b", NOT_A_CONCEPT),
    "hypernetwork": (r"^\d+\.\d+\.linear\.", NOT_A_CONCEPT),
    "whole checkpoint": (r"^(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.", NOT_A_CONCEPT),
    "diffusers U-Net": (r"^time_embedding\.linear_1\.weight$", NOT_A_CONCEPT),
}


def kind(file: WeightFile) -> tuple[str, str] | None:
    """Return what the file is called in its own world and why it cannot be read, if it is known and cannot."""
    names = [name for name in file.content if not _is_readable(name)]
    for other, (pattern, reason) in KINDS.items():
        if any(re.search(pattern, name) for name in names):
            return other, reason
    model = architectures.named(names)
    return None if model is None else (f"LoRA or weights of {model}", OTHER_MODELS)


def _is_readable(name: str) -> bool:
    found = lora_keys.parse(name)
    return found is not None and found.known
