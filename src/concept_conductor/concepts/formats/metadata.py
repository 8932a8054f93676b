"""What a LoRA file says of itself: a few lines for people, and the words that call its concept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from concept_conductor.concepts.formats.weight_file import SETTINGS, WeightFile

MAX_CHARACTERS = 300  # trainers write whole command lines and tables of captions; nobody reads those here
MAX_TRIGGER = 100
MAX_KEY = 100

_NOT_FOR_PEOPLE = ("format", SETTINGS)


def metadata(file: WeightFile) -> dict[str, str]:
    """Return the short entries of the header, and ``trigger_words`` where it names them."""
    entries = short({key: value for key, value in file.metadata.items() if key not in _NOT_FOR_PEOPLE})
    words = trigger_words(file)
    return entries if words is None else {**entries, "trigger_words": words}


def short(entries: Mapping[str, str]) -> dict[str, str]:
    """Return those entries that people can read: on one line, and not too long."""
    return {
        key: value
        for key, value in entries.items()
        if value and len(value) <= MAX_CHARACTERS and len(key) <= MAX_KEY and (key + value).isprintable()
    }


def trigger_words(file: WeightFile) -> str | None:
    """Return the words that call the concept: the model specification's, else the commonest tag of kohya's captions."""
    words = file.metadata.get("modelspec.trigger_phrase", "").strip() or _commonest_tag(file)
    return words if words and len(words) <= MAX_TRIGGER and words.isprintable() else None


def _commonest_tag(file: WeightFile) -> str | None:
    """Return the commonest tag of ``ss_tag_frequency``, which is ``{folder: {tag: count}}`` as JSON."""
    try:
        folders = json.loads(file.metadata.get("ss_tag_frequency", "{}"))
        counts: Counter[str] = Counter()
        for tags in folders.values():
            counts.update({str(tag).strip(): int(count) for tag, count in tags.items()})
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return None  # it is only a hint
    return counts.most_common(1)[0][0] if counts else None
