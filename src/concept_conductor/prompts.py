"""Prompt variants -> text conditioning for every path and cross-attention layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import CLIPTokenizer

from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import ConductorError


@dataclass(frozen=True)
class ConceptPrompt:
    """One concept and how it is spoken of.

    Attributes:
        concept: the concept.
        prompt: the prompt variant itself, holding the concept's placeholders, or any words for a concept that has
            none; or None.
        replaces: words of the base prompt in whose places the placeholders, or the file's trigger words, are put
            ("Two toys on a stage." with ``["toys"]`` becomes "Two <a> <b> on a stage."); or None.
        weight: how strongly the low-rank weights apply, 0.7 in the paper.
        prompt_2: the variant of the base prompt's ``prompt_2``, for SDXL's second text encoder; None where the
            base prompt has none, or for ``replaces`` to be done in that one too.
    """

    concept: Concept
    prompt: str | None = None
    replaces: Sequence[str] | None = None
    weight: float = 0.7
    prompt_2: str | None = None

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.replaces is None):
            raise ConductorError(
                f"the concept '{self.concept.name}' needs either prompt= (its variant of the base prompt) or "
                "replaces= (the words it stands for), exactly one of the two"
            )

    def variant(self, base_prompt: str) -> str:
        """The prompt of this concept's path.

        Raises:
            ConductorError: a word to replace is not in the base prompt, the variant lacks a placeholder, or the
                concept has neither placeholders nor trigger words to put in a word's place.
        """
        if self.replaces is not None:
            if self.concept.phrase is None:
                raise ConductorError(
                    f"the concept '{self.concept.name}' has no placeholders and its file names no trigger words, so "
                    "nothing can replace words; give prompt= with the words it was trained on"
                )
            return replace_words(base_prompt, self.replaces, self.concept.phrase)
        assert self.prompt is not None
        missing = [name for name in self.concept.placeholders if not re.search(pattern_of(name), self.prompt)]
        if missing:
            raise ConductorError(
                f"the prompt '{self.prompt}' of the concept '{self.concept.name}' lacks its placeholder "
                f"{', '.join(missing)}; write {' '.join(self.concept.placeholders)} where the concept should stand"
            )
        return self.prompt

    def variant_2(self, base_prompt_2: str | None) -> str | None:
        """What the second text encoder reads in this concept's path; None for the same as the first.

        Raises:
            ConductorError: the base prompt has a second text, but its variant is not known.
        """
        if self.prompt_2 is not None or base_prompt_2 is None:
            return self.prompt_2
        if self.replaces is None:
            raise ConductorError(
                f"the base prompt has a prompt_2 but the concept '{self.concept.name}' has none; give its variant of "
                f"'{base_prompt_2}' too, or use replaces= (the words it stands for)"
            )
        words = [self.replaces] if isinstance(self.replaces, str) else self.replaces
        there = [word for word in words if re.search(rf"\b{re.escape(word)}\b", base_prompt_2, re.IGNORECASE)]
        return replace_words(base_prompt_2, there, " ".join(self.concept.placeholders)) if there else base_prompt_2


def replace_words(prompt: str, words: Sequence[str], placeholders: str) -> str:
    """Put ``placeholders`` where ``words`` stand in ``prompt``, whole words only, whatever their case."""
    if isinstance(words, str):
        words = [words]
    for word in words:
        if not word.strip() or not re.search(rf"\b{re.escape(word)}\b", prompt, re.IGNORECASE):
            raise ConductorError(f"the word '{word}' to replace is not in the prompt '{prompt}'")
    longest_first = sorted(words, key=len, reverse=True)
    pattern = "|".join(re.escape(word) for word in longest_first)
    return re.sub(rf"\b(?:{pattern})\b", lambda _: placeholders, prompt, flags=re.IGNORECASE)


def pattern_of(placeholder: str) -> str:
    """A regular expression that finds ``placeholder``: whole words only, where it begins or ends like a word."""
    before, after = (r"\b" if re.match(r"\w", end) else "" for end in (placeholder[0], placeholder[-1]))
    return f"{before}{re.escape(placeholder)}{after}"


def split_at(prompt: str, placeholders: Sequence[str]) -> list[str]:
    """The prompt's pieces: placeholders, and the texts between them."""
    names = sorted(placeholders, key=len, reverse=True)
    return re.split(f"({'|'.join(map(pattern_of, names))})", prompt) if names else [prompt]


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
