"""Concepts to write, damage and read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank

RANK, DIM = 2, 6


def update(out: int = DIM, width: int = DIM) -> LowRank:
    return LowRank(torch.randn(RANK, width), torch.randn(out, RANK))


def concept(encoders: int = 1) -> Concept:
    """A small concept with random weights."""
    return Concept(
        name="toy",
        tokens=tuple({"<toy_2>": torch.randn(16, DIM), "<toy_1>": torch.randn(16, DIM)} for _ in range(encoders)),
        text_encoders=tuple({"encoder.layers.0.self_attn.q_proj": update()} for _ in range(encoders)),
        unet={f"up_blocks.1.attentions.0.transformer_blocks.0.attn2.{name}": update(8, 4) for name in ("to_k", "to_v")},
        metadata={"author": "me", "class_word": "toy"},
    )


def published(**changes: Any) -> dict[str, Any]:
    """The tables of a published file; ``changes`` replace whole tables."""
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tables: dict[str, Any] = {
        "new_concept_embedding": {"<a>": torch.randn(16, DIM), "<b>": torch.randn(16, DIM)},
        "text_encoder": {},
        "unet": {f"{layer}.lora_down.weight": torch.randn(RANK, 4), f"{layer}.lora_up.weight": torch.randn(8, RANK)},
    }
    return {**tables, **changes}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
