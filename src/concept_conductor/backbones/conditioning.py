"""Prompt variants -> text conditioning for every path and cross-attention layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from concept_conductor.concepts.placeholders import split_at
from concept_conductor.errors import ConductorError


@dataclass(frozen=True)
class Conditioning:
    """Text conditioning of all paths.

    Attributes:
        texts: ``(paths, guidance, layers, tokens, dim)``; guidance is conditional, then unconditional.
        pooled: ``(paths, guidance, dim)`` for families that have it.
    """

    texts: Tensor
    pooled: Tensor | None = None

    @cached_property
    def conditional(self) -> Conditioning:
        """The conditional half alone; itself where there is no other."""
        if self.texts.shape[1] == 1:
            return self
        return Conditioning(self.texts[:, :1], None if self.pooled is None else self.pooled[:, :1])

    @staticmethod
    def stack(paths: Sequence[Sequence[Conditioning]]) -> Conditioning:
        """Join single texts, given as ``paths[path][guidance]``, each ``(1, 1, layers, tokens, dim)``."""
        texts = torch.cat([half.texts[0] for path in paths for half in path]).unflatten(0, (len(paths), -1))
        pooled = [[half.pooled for half in path] for path in paths]
        if any(half is None for path in pooled for half in path):
            return Conditioning(texts)
        return Conditioning(texts, torch.stack([torch.cat([h[0] for h in path if h is not None]) for path in pooled]))


@dataclass(frozen=True)
class TokenizedPrompt:
    """Token ids of one prompt, and where placeholders stand.

    Attributes:
        ids: ``(tokens,)`` with start, end and padding.
        placeholders: position -> placeholder name; where it takes several positions, the first of them.
    """

    ids: Tensor
    placeholders: Mapping[int, str]


def tokenize(
    tokenizer: CLIPTokenizer, prompt: str, placeholders: Sequence[str], positions: Mapping[str, int] | None = None
) -> TokenizedPrompt:
    """Tokenize ``prompt``, each placeholder becoming one position, or as many as ``positions`` says.

    The tokenizer itself is left alone, so that concepts with equal names cannot collide. Text beyond the
    encoder's length is cut off, as everywhere in this ecosystem.

    Raises:
        ConductorError: a placeholder falls beyond the encoder's length.
    """
    length = tokenizer.model_max_length - 2
    ids: list[int] = []
    found: dict[int, str] = {}
    lost: list[str] = []
    for piece in split_at(prompt, placeholders):
        if piece in placeholders:
            found[len(ids) + 1] = piece
            ids += [0] * (positions or {}).get(piece, 1)  # any id but the end token's: its embedding is overwritten
            if len(ids) > length:
                lost.append(piece)
        elif piece.strip():
            ids.extend(tokenizer(piece, add_special_tokens=False)["input_ids"])
    if lost:
        raise ConductorError(
            f"the placeholder {lost[0]} comes after the {length} tokens that the text encoder reads; shorten the prompt"
        )
    kept = [tokenizer.bos_token_id, *ids[:length], tokenizer.eos_token_id]
    kept += [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(kept))
    return TokenizedPrompt(torch.tensor(kept), found)


@contextmanager
def placeholder_embeddings(
    embedding: nn.Embedding, tokenized: Sequence[TokenizedPrompt], tokens: Mapping[str, Tensor], layers: int
) -> Iterator[None]:
    """Inside this context the token embedding gives a concept's own vectors at its placeholders.

    Rows are prompt-major ``(prompts, layers)``; row l of a prompt gets the l-th vector of each placeholder.

    Args:
        embedding: the text encoder's token embedding.
        tokenized: the prompts.
        tokens: placeholder -> ``(layers, dim)`` or ``(1, dim)``, or several positions' ``(positions, layers, dim)``;
            gradients reach them.
        layers: rows per prompt.
    """

    def put_in(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        rows = output.unflatten(0, (len(tokenized), layers)).clone()
        for prompt, text in enumerate(tokenized):
            for position, name in text.placeholders.items():
                vectors = tokens[name].to(rows)
                by_position = vectors if vectors.ndim == 3 else vectors[None]
                rows[prompt, :, position : position + len(by_position)] = by_position.transpose(0, 1)
        return rows.flatten(0, 1)

    handle = embedding.register_forward_hook(put_in)
    try:
        yield
    finally:
        handle.remove()
