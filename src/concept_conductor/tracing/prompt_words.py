"""Words of prompts and the tokens that they are, by the tokenizer's own offsets."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

from transformers import CLIPTokenizer

from concept_conductor.concepts.placeholders import split_at

WORD = re.compile(r"\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class Word:
    """One word of a prompt, or placeholders that stand side by side.

    Attributes:
        text: as it is written.
        positions: of its tokens among those that the text encoder reads; the start token has position 0.
        placeholder: stands for a concept.
        foreground: names an object of the foreground.
    """

    text: str
    positions: tuple[int, ...]
    placeholder: bool = False
    foreground: bool = False


def words_of(
    tokenizer: CLIPTokenizer, prompt: str, placeholders: Sequence[str] = (), positions: Mapping[str, int] | None = None
) -> tuple[Word, ...]:
    """List the words of ``prompt`` in order, tokenized as :func:`.conditioning.tokenize` does it.

    Words that the text encoder does not get to read are left out, and so is punctuation.

    Args:
        tokenizer: a fast one, which knows the offsets of its tokens.
        prompt: the text.
        placeholders: the concept's.
        positions: placeholder -> how many tokens it takes, if not one.
    """
    found: list[Word] = []
    at, beside = 1, False  # the next token's position; whether only blanks came since the last placeholder
    for piece in split_at(prompt, placeholders):
        if piece in placeholders:
            count = (positions or {}).get(piece, 1)
            word = Word(piece, tuple(range(at, at + count)), placeholder=True, foreground=True)
            if beside:
                before = found.pop()
                word = replace(word, text=f"{before.text} {piece}", positions=before.positions + word.positions)
            found.append(word)
            at, beside = at + count, True
        elif piece.strip():
            offsets = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            for match in WORD.finditer(piece):
                own = (i for i, (start, end) in enumerate(offsets, at) if start < match.end() and end > match.start())
                found.append(Word(match.group(), tuple(own)))
            at, beside = at + len(offsets), False
    read = range(1, tokenizer.model_max_length - 1)
    cut = (replace(word, positions=tuple(i for i in word.positions if i in read)) for word in found)
    return tuple(word for word in cut if word.positions)


def marked(words: Sequence[Word], texts: Collection[str]) -> tuple[Word, ...]:
    """Mark the words among ``texts`` (whatever their case) as foreground."""
    lowered = {text.lower() for text in texts}
    return tuple(replace(word, foreground=word.foreground or word.text.lower() in lowered) for word in words)


def differing(base: Sequence[Word], variant: Sequence[Word]) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """Mark both prompts' words as foreground where the variant says something else than the base prompt.

    "A dog on the beach" and "A <a> <b> on the beach" differ in "dog" and "<a> <b>". Where more words were replaced
    than came, the last are meant, as in "a dog" -> "<a>". A variant with placeholders has its foreground already.
    """
    base, variant = list(base), list(variant)
    known = any(word.placeholder for word in variant)
    matcher = SequenceMatcher(None, [w.text.lower() for w in base], [w.text.lower() for w in variant], autojunk=False)
    for what, start, end, start_2, end_2 in matcher.get_opcodes():
        if what == "replace":
            for index in range(max(start, end - (end_2 - start_2)), end):
                base[index] = replace(base[index], foreground=True)
        if what in ("replace", "insert") and not known:
            for index in range(start_2, end_2):
                variant[index] = replace(variant[index], foreground=True)
    return tuple(base), tuple(variant)
