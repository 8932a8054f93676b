"""Text encoders, as the families read with them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


class TextEncoder:
    """One text encoder and its tokenizer; what it reads is the last hidden state, as in SD1.5.

    Args:
        model: the network.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: CLIPTextModel | CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @property
    def embedding(self) -> nn.Embedding:
        """The token embedding."""
        embedding = self.model.get_input_embeddings()
        assert isinstance(embedding, nn.Embedding)
        return embedding

    @property
    def dim(self) -> int:
        """Numbers in a token's vector."""
        return int(self.model.config.hidden_size)

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Hidden states ``(rows, tokens, dim)`` of ``ids (rows, tokens)``, and a pooled text where there is one."""
        return self.model(ids)[0], None


class PenultimateTextEncoder(TextEncoder):
    """Reads the last but one layer, without the final norm, as SDXL does; pooled is the projected end token."""

    def __call__(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        output: Any = self.model(ids, output_hidden_states=True)
        return output.hidden_states[-2], getattr(output, "text_embeds", None)  # (rows, dim), with a projection only
