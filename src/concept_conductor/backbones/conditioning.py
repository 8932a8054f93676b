"""Prompt variants -> text conditioning for every path and cross-attention layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from concept_conductor.concepts.placeholders import split_at
from concept_conductor.errors import ConductorError

logger = logging.getLogger(__name__)


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

    def zeros(self) -> Conditioning:
        """Return zeros in the place of all that was read."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Conditioning(torch.zeros_like(self.texts), pooled)

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
    encoder's length is cut off, with a warning that names it; :func:`tokenize_chunks` keeps it.

    Raises:
        ConductorError: a placeholder falls beyond the encoder's length.
    """
    length = tokenizer.model_max_length - 2
    ids, found = _tokens(tokenizer, prompt, placeholders, positions or {})
    for position, name in found.items():
        if position + (positions or {}).get(name, 1) - 1 > length:
            raise ConductorError(
                f"the placeholder {name} comes after the {length} tokens that the text encoder reads; shorten the "
                "prompt, or set chunk_prompts=True to encode it in parts"
            )
    if len(ids) > length:
        warn_once(_unread(tokenizer, ids, length))
    return TokenizedPrompt(_with_ends(tokenizer, ids[:length]), found)


def unread_part(
    tokenizer: CLIPTokenizer, prompt: str, placeholders: Sequence[str] = (), positions: Mapping[str, int] | None = None
) -> str | None:
    """Return a sentence that names what the text encoder does not read of a prompt; None where it reads all."""
    ids, _ = _tokens(tokenizer, prompt, placeholders, positions or {})
    length = tokenizer.model_max_length - 2
    return _unread(tokenizer, ids, length) if len(ids) > length else None


def _tokens(
    tokenizer: CLIPTokenizer, prompt: str, placeholders: Sequence[str], positions: Mapping[str, int]
) -> tuple[list[int], dict[int, str]]:
    """Return a prompt's tokens without start, end and padding; and position among all tokens -> placeholder."""
    ids: list[int] = []
    found: dict[int, str] = {}
    for piece in split_at(prompt, placeholders):
        if piece in placeholders:
            found[len(ids) + 1] = piece
            ids += [0] * positions.get(piece, 1)  # any id but the end token's: its embedding is overwritten
        elif piece.strip():
            ids.extend(tokenizer(piece, add_special_tokens=False)["input_ids"])
    return ids, found


@lru_cache(maxsize=256)  # a prompt is read again for every seed
def warn_once(sentence: str) -> None:
    """Log a warning about prompts that was not logged before."""
    logger.warning("%s", sentence)


def _unread(tokenizer: CLIPTokenizer, ids: Sequence[int], length: int) -> str:
    unread = tokenizer.decode(ids[length:]).strip()
    shown = unread if len(unread) <= 60 else f"{unread[:57]}..."
    return (
        f"the prompt has {len(ids)} tokens, but the text encoder reads {length}, so '{shown}' is not read; shorten the "
        "prompt, or set chunk_prompts=True to encode it in parts"
    )


def tokenize_chunks(
    tokenizer: CLIPTokenizer, prompt: str, placeholders: Sequence[str], positions: Mapping[str, int] | None = None
) -> list[TokenizedPrompt]:
    """Tokenize all of ``prompt`` in as many parts as it takes, each with a start and an end token of its own.

    Parts end at the ends of words, and no placeholder is divided.

    Raises:
        ConductorError: a placeholder takes more positions than a part has.
    """
    length = tokenizer.model_max_length - 2
    parts: list[tuple[list[int], dict[int, str]]] = [([], {})]
    for unit, name in _units(tokenizer, prompt, placeholders, positions or {}, length):
        if len(parts[-1][0]) + len(unit) > length:
            parts.append(([], {}))
        ids, found = parts[-1]
        if name is not None:
            found[len(ids) + 1] = name
        ids.extend(unit)
    return [TokenizedPrompt(_with_ends(tokenizer, ids), found) for ids, found in parts]


def _units(
    tokenizer: CLIPTokenizer, prompt: str, placeholders: Sequence[str], positions: Mapping[str, int], length: int
) -> Iterator[tuple[list[int], str | None]]:
    """What must stay together: the tokens of each word, and those of each placeholder with its name."""
    for piece in split_at(prompt, placeholders):
        if piece in placeholders:
            count = positions.get(piece, 1)
            if count > length:
                raise ConductorError(
                    f"the placeholder {piece} takes {count} positions, but the text encoder reads {length}; use a "
                    "concept with fewer vectors"
                )
            yield [0] * count, piece  # any id but the end token's: its embedding is overwritten
        elif piece.strip():
            word: list[int] = []
            ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
            for token, text in zip(ids, tokenizer.convert_ids_to_tokens(ids)):
                word.append(token)
                if text.endswith("</w>") or len(word) == length:
                    yield word, None
                    word = []
            if word:
                yield word, None


def _with_ends(tokenizer: CLIPTokenizer, ids: Sequence[int]) -> Tensor:
    """Put start, end and padding around the tokens of a text, ``(tokens,)``."""
    kept = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return torch.tensor(kept + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(kept)))


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
