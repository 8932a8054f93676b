"""Stable Diffusion 1.x: one CLIP text encoder, 16 cross-attention layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import CLIPTextModel, CLIPTokenizer

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.defaults import Defaults, TrainingDefaults
from concept_conductor.backbones.text_encoders import TextEncoder
from concept_conductor.settings import Alignment, Refinement

SD15_DEFAULTS = Defaults(
    layout_layer="up_blocks.1.attentions.0.transformer_blocks.0.attn1",  # first decoder self-attention
    mask_layer="up_blocks.2.attentions.2.transformer_blocks.0.attn1",  # sixth decoder self-attention
    word_layer="up_blocks.2.attentions.1.transformer_blocks.0.attn2",  # fifth decoder cross-attention
    alignment=Alignment(step_size=10.0, concept_weight=1.0, end=0.30),
    refinement=Refinement(start=0.25, end=0.40, every=5, overlap_threshold=0.0, keep_outline=False),
    training=TrainingDefaults(norm_threshold=(0.55,)),
)


class SD15Backbone(Backbone):
    """SD1.5 as the method sees it."""

    family = "sd15"
    name = "SD1.5"
    text_parts = ("text_encoder", "tokenizer")
    foreign_parts = ("text_encoder_2", "tokenizer_2")
    family_defaults: ClassVar[Defaults] = SD15_DEFAULTS

    def __init__(self, *, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, **others: Any) -> None:
        super().__init__(text_encoders=(TextEncoder(text_encoder, tokenizer),), **others)

    @classmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        return components.get("text_encoder_2") is None and isinstance(components.get("text_encoder"), CLIPTextModel)
