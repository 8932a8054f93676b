"""Placeholders in a prompt: finding them, and splitting the text at them."""

from __future__ import annotations

import re
from collections.abc import Sequence


def pattern_of(placeholder: str) -> str:
    """Return a regular expression that finds ``placeholder``: whole words only, where it begins or ends like a word."""
    before, after = (r"\b" if re.match(r"\w", end) else "" for end in (placeholder[0], placeholder[-1]))
    return f"{before}{re.escape(placeholder)}{after}"


def split_at(prompt: str, placeholders: Sequence[str]) -> list[str]:
    """Return the prompt's pieces: placeholders, and the texts between them."""
    names = sorted(placeholders, key=len, reverse=True)
    return re.split(f"({'|'.join(map(pattern_of, names))})", prompt) if names else [prompt]
