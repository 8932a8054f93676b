"""A concept as a prompt speaks of it: its placeholders or trigger words, in a variant of the base prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.placeholders import pattern_of
from concept_conductor.errors import ConductorError

#: Strongest weight of a concept, either way.
MAX_WEIGHT = 10


@dataclass(frozen=True)
class ConceptPrompt:
    """One concept and how it is spoken of.

    Attributes:
        concept: the concept, or the path or name of one, which is loaded.
        prompt: the prompt variant itself, holding the concept's placeholders, or any words for a concept that has
            none; or None.
        replaces: words of the base prompt in whose places the placeholders, or the file's trigger words, are put
            ("Two toys on a stage." with ``["toys"]`` becomes "Two <a> <b> on a stage."); or None.
        weight: how strongly the low-rank weights apply, -10..10, 0.7 in the paper.
        prompt_2: the variant of the base prompt's ``prompt_2``, for SDXL's second text encoder; None where the
            base prompt has none, or for ``replaces`` to be done in that one too.
    """

    concept: Concept
    prompt: str | None = None
    replaces: Sequence[str] | None = None
    weight: float = 0.7
    prompt_2: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.concept, str | Path):
            object.__setattr__(self, "concept", Concept.load(self.concept))
        if not isinstance(self.concept, Concept):
            raise ConductorError(
                f"ConceptPrompt needs a Concept, or the path or name of one, but a {type(self.concept).__name__} came"
            )
        if isinstance(self.replaces, str):
            object.__setattr__(self, "replaces", [self.replaces])
        for name, texts in (("prompt", [self.prompt]), ("prompt_2", [self.prompt_2]), ("replaces", self.replaces)):
            if not all(isinstance(text, str | None) for text in texts or ()):
                raise ConductorError(f"{name}= of the concept '{self.concept.name}' must be text, but it is {texts!r}")
        if self.replaces is not None and not self.replaces:
            raise ConductorError(
                f"replaces= of the concept '{self.concept.name}' names no words; give those that it stands for"
            )
        check_weight(self.concept.name, self.weight)
        if (self.prompt is None) == (self.replaces is None):
            raise ConductorError(
                f"the concept '{self.concept.name}' needs either prompt= (its variant of the base prompt) or "
                "replaces= (the words it stands for), exactly one of the two"
            )

    def variant(self, base_prompt: str) -> str:
        """Return the prompt of this concept's path.

        Raises:
            ConductorError: a word to replace is not in the base prompt, the variant lacks a placeholder, or the
                concept has neither placeholders nor trigger words to put in a word's place.
        """
        if self.replaces is not None:
            return replace_words(base_prompt, self.replaces, self._phrase())
        assert self.prompt is not None
        missing = [name for name in self.concept.placeholders if not re.search(pattern_of(name), self.prompt)]
        if missing:
            raise ConductorError(
                f"the prompt '{self.prompt}' of the concept '{self.concept.name}' lacks its placeholder "
                f"{', '.join(missing)}; write {' '.join(self.concept.placeholders)} where the concept should stand"
            )
        return self.prompt

    def variant_2(self, base_prompt_2: str | None) -> str | None:
        """Return what the second text encoder reads in this concept's path; None for the same as the first.

        Raises:
            ConductorError: the base prompt has a second text, but its variant is not known, or the concept has nothing
                to put in a word's place.
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
        return replace_words(base_prompt_2, there, self._phrase()) if there else base_prompt_2

    def _phrase(self) -> str:
        """Return what takes the place of words."""
        if self.concept.phrase is None:
            raise ConductorError(
                f"the concept '{self.concept.name}' has no placeholders and its file names no trigger words, so "
                "nothing can replace words; give prompt= with the words it was trained on"
            )
        return self.concept.phrase


def check_weight(name: str, weight: Any) -> None:
    """Refuse what is no weight of a concept.

    Raises:
        ConductorError: it is no number, or lies beyond :data:`MAX_WEIGHT`.
    """
    if isinstance(weight, bool) or not isinstance(weight, Real | Tensor):
        raise ConductorError(f"weight= of the concept '{name}' must be a number, but it is {weight!r}")
    if not -MAX_WEIGHT <= float(weight) <= MAX_WEIGHT:
        raise ConductorError(
            f"weight= of the concept '{name}' must lie from -{MAX_WEIGHT} to {MAX_WEIGHT}, but it is {weight}"
        )


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
