"""Stable Diffusion XL: two text encoders, a pooled text, size conditioning, 70 cross-attention layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.backbones.defaults import Defaults, TrainingDefaults
from concept_conductor.backbones.text_encoders import PenultimateTextEncoder
from concept_conductor.settings import Alignment, LearningRates, Ranks, Refinement

SDXL_DEFAULTS = Defaults(
    layout_layer="up_blocks.0.attentions.1.transformer_blocks.4.attn1",
    mask_layer="up_blocks.0.attentions.1.transformer_blocks.4.attn1",
    # the paper shows SD1.5's only; this is the one beside the mask layer, of the same resolution
    word_layer="up_blocks.0.attentions.1.transformer_blocks.4.attn2",
    alignment=Alignment(step_size=40.0, concept_weight=1.0, end=0.25),
    refinement=Refinement(start=0.30, end=0.40, every=5, overlap_threshold=0.7, keep_outline=False),
    training=TrainingDefaults(
        norm_threshold=(0.55, 1.5),
        learning_rates=LearningRates(embeddings=(1e-3, 5e-4), text_encoder=(1e-5, 2e-6), unet=5e-5),
        rank=Ranks(text_encoder=(4, 32), unet=32),
        batch=1,
        samples_per_image=2000,
        cuda_precision="bf16",
        gradient_checkpointing=True,  # 70 texts through the second encoder alone would take 12 GB of activations
    ),
)


class SDXLBackbone(Backbone):
    """SDXL as the method sees it."""

    family = "sdxl"
    name = "SDXL"
    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    foreign_parts = ("safety_checker",)
    family_defaults: ClassVar[Defaults] = SDXL_DEFAULTS

    def __init__(
        self,
        *,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer_2: CLIPTokenizer,
        **others: Any,
    ) -> None:
        text_encoders = (
            PenultimateTextEncoder(text_encoder, tokenizer),
            PenultimateTextEncoder(text_encoder_2, tokenizer_2),
        )
        super().__init__(text_encoders=text_encoders, **others)

    @classmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        return isinstance(components.get("text_encoder"), CLIPTextModel) and isinstance(
            components.get("text_encoder_2"), CLIPTextModelWithProjection
        )

    def added_conditioning(
        self, text: Conditioning, present: slice, images: int, latent_size: Sequence[int]
    ) -> dict[str, Any]:
        """Every row's pooled text, and the size in pixels: original and target alike, nothing cropped."""
        assert text.pooled is not None
        pooled = text.pooled[present].flatten(0, 1).repeat_interleave(images, dim=0)  # (rows, dim)
        height, width = (side * self.vae_factor for side in latent_size)
        ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=pooled.device)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids.expand(len(pooled), -1)}}

    @property
    def vae_dtype(self) -> torch.dtype:
        """SDXL's own VAE overflows in fp16; a checkpoint with a mended one says so by ``force_upcast: false``."""
        upcast = self.vae.dtype == torch.float16 and self.vae.config.force_upcast
        return torch.float32 if upcast else super().vae_dtype
