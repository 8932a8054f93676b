"""Stable Diffusion 1.x (and 2.x of the same layout): one CLIP text encoder, 16 cross-attention layers."""

from __future__ import annotations

from functools import cached_property

import torch

from concept_conductor.backbones.base import Backbone, Defaults, TrainingDefaults
from concept_conductor.concepts import families
from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import FamilyError
from concept_conductor.prompts import Conditioning, placeholder_embeddings, tokenize
from concept_conductor.settings import Alignment, Refinement
from concept_conductor.unet.layers import cross_attention_names
from concept_conductor.unet.lora import AllRows, pathwise, scaled

SD15_DEFAULTS = Defaults(
    layout_layer="up_blocks.1.attentions.0.transformer_blocks.0.attn1",  # first decoder self-attention
    mask_layer="up_blocks.2.attentions.2.transformer_blocks.0.attn1",  # sixth decoder self-attention
    alignment=Alignment(step_size=10.0, concept_weight=1.0, end=0.30),
    refinement=Refinement(start=0.25, end=0.40, every=5, overlap_threshold=0.0),
    training=TrainingDefaults(norm_threshold=0.55),
)


class SD15Backbone(Backbone):
    """SD1.5 as the method sees it."""

    family = "sd15"

    @cached_property
    def text_layers(self) -> int:
        """L, the number of cross-attention layers and so of layer-wise texts."""
        return len(cross_attention_names(self.unet))

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> Conditioning:
        ids = tokenize(self.tokenizer, prompt, ()).ids[None].to(self.device)
        hidden = self.text_encoder(ids)[0].to(self.dtype)  # (1, tokens, dim)
        return Conditioning(hidden[None, None].expand(1, 1, self.text_layers, -1, -1))

    @torch.no_grad()
    def encode_concept_prompts(self, concept: Concept, weight: float, prompts: list[str]) -> list[Conditioning]:
        tokenized = [tokenize(self.tokenizer, prompt, concept.placeholders, concept.positions) for prompt in prompts]
        ids = torch.stack([text.ids for text in tokenized]).to(self.device)
        # one text serves all layers where no placeholder has vectors of its own for each
        layers = max((vectors.shape[-2] for vectors in concept.tokens[0].values()), default=1)
        rows = ids.repeat_interleave(layers, dim=0)  # (prompts * layers, tokens)
        with (
            pathwise(self.text_encoder, [scaled(concept.text_encoders[0], weight)], AllRows()),
            placeholder_embeddings(self.text_encoder.get_input_embeddings(), tokenized, concept.tokens[0], layers),
        ):
            hidden = self.text_encoder(rows)[0].to(self.dtype)
        texts = hidden.unflatten(0, (len(prompts), layers)).expand(-1, self.text_layers, -1, -1)
        return [Conditioning(text[None, None]) for text in texts]

    def check(self, concept: Concept) -> None:
        families.check(concept, self.unet.config.cross_attention_dim, encoders=1)
        dim = self.text_encoder.config.hidden_size
        for name, vectors in concept.tokens[0].items():
            if vectors.shape[-1] != dim or vectors.shape[-2] not in (1, self.text_layers):
                raise FamilyError(
                    f"the placeholder {name} of the concept '{concept.name}' has embeddings of shape "
                    f"{tuple(vectors.shape)}, but this model needs ({self.text_layers}, {dim}) or (1, {dim}); "
                    "use a concept trained on a model of this family"
                )
