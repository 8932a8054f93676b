"""Text encoders, as the families read with them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


class TextReader:
    """One text encoder and its tokenizer; what it reads is the last hidden state, as in SD1.5.

    Args:
        encoder: the model.
        tokenizer: its tokenizer.
    """

    def __init__(self, encoder: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
        self.encoder = encoder
        self.tokenizer = tokenizer

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        embedding = self.encoder.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding

    @property
    def dim(self) -> int:
        """Numbers in a token's vector."""
        return int(self.encoder.config.hidden_size)

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states ``(rows, tokens, dim)`` of ``ids (rows, tokens)``, and a pooled text where there is one."""
        return self.encoder(ids)[0], None


class PenultimateReader(TextReader):
    """Reads the last but one layer, without the final norm, as SDXL does; pooled is the projected end token."""

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        output: Any = self.encoder(ids, output_hidden_states=True)
        return output.hidden_states[-2], getattr(output, "text_embeds", None)  # (rows, dim), with a projection only
