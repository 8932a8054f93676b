"""Text on its way to a terminal, a page or a log: what would act there instead of being read is shown as an escape."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

LINES = frozenset("\n\t")
JOINERS = frozenset("\u200c\u200d")
"""They shape letters and emoji and move nothing."""


def printable(text: str) -> str:
    """Return ``text`` with control characters, direction overrides and half characters as ``\\x1b`` or ``\\u202e``.

    A terminal obeys escape sequences, so a stranger's name could clear the screen, set its title or forge lines; a
    direction override turns what follows it round, on pages too. Line ends and tabs stay. The escapes are those of
    JSON beyond ASCII, so that JSON text stays what it means.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def one_line(text: str) -> str:
    """Return ``printable(text)`` with line ends and tabs escaped too, so that a name cannot forge a line of its own."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def printable_data(data: Any) -> Any:
    """Return JSON-like data with every string in it, keys included, as :func:`printable` shows it."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, dict):
        return {printable_data(key): printable_data(value) for key, value in data.items()}
    return [printable_data(value) for value in data] if isinstance(data, list | tuple) else data


def _shown(character: str) -> str:
    if character.isprintable() or character in LINES or character in JOINERS:
        return character
    if unicodedata.category(character) == "Zs":  # blanks other than the common one
        return character
    return repr(character)[1:-1] if character < " " else json.dumps(character)[1:-1]
