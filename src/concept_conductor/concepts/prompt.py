"""prompt"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.placeholders import pattern_of
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
