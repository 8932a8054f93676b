"""Other tools' prompt syntax, which this project reads as plain words: found, so that nobody takes it for obeyed."""

from __future__ import annotations

import re
from collections.abc import Iterable

MOST_NAMED = 5
"""Pieces of a text that are named in one warning."""

_TEXT = r"[^\n()\[\]{}:|]{1,200}"
_WORDS = rf"(?=[^:)\]]{{0,200}}[^\W\d]){_TEXT}"
_NUMBER = r"\s{0,9}[+-]?(?:\d{1,9}\.?\d{0,9}|\.\d{1,9})\s{0,9}"

_PATTERNS = (
    rf"[(\[]{_WORDS}:{_NUMBER}[)\]]",  # a weight: (word:1.3), [word:0.5]
    rf"\({_WORDS}\)(?:\d\.\d{{1,9}}|\.\d{{1,9}})",  # (word)1.3
    r"\b[^\W\d]{2,50}\+{2,9}",  # word++
    rf"(?<!\()\({{2,9}}{_WORDS}\){{2,9}}|(?<!\[)\[{{2,9}}{_WORDS}\]{{2,9}}",  # emphasis: ((word)), [[word]]
    rf"\[{_TEXT}?:{_TEXT}?:{_NUMBER}\]",  # a change on the way: [from:to:0.5]
    rf"[\[{{]{_TEXT}(?:\|{_TEXT}){{1,20}}[\]}}]",  # a choice: [a|b], {a|b}
    r"\b(?:BREAK|AND)\b",  # prompts in parts
    r"(?i:<(?:lora|lyco|hypernet|lbw|embedding):[^<>\n]{1,200}>|\bembedding:[\w./-]{1,200})",  # files
)
_SYNTAX = [re.compile(pattern) for pattern in _PATTERNS]


def literal_syntax(prompt: str) -> list[str]:
    """Return what of a prompt has a meaning in other tools, but is read literally here, in its order.

    Found are weights (``(word:1.3)``, ``(word)1.3``, ``word++``), emphasis (``((word))``), changes on the way and
    choices (``[from:to:0.5]``, ``[a|b]``), ``BREAK``, ``AND``, and files (``<lora:name:0.8>``, ``embedding:name``).
    """
    found: dict[int, str] = {}
    for pattern in _SYNTAX:
        for match in pattern.finditer(prompt):
            found.setdefault(match.start(), match[0].strip())
    return list(dict.fromkeys(found[start] for start in sorted(found)))


def syntax_warning(prompts: Iterable[str | None]) -> str | None:
    """Return a sentence that names all of :func:`literal_syntax` in some prompts, or None where there is none."""
    found = list(dict.fromkeys(piece for prompt in prompts if prompt for piece in literal_syntax(prompt)))
    if not found:
        return None
    named = ", ".join(f"'{piece[:60]}'" for piece in found[:MOST_NAMED]) + (", ..." if len(found) > MOST_NAMED else "")
    return (
        f"prompts are plain words here, so that {named} {'is' if len(found) == 1 else 'are'} read literally; leave "
        f"{'it' if len(found) == 1 else 'them'} out, and give LoRAs and embeddings as concepts, with their weight"
    )
