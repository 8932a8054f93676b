"""What is measured: an image, its prompt, and the concepts that should be in it."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.places import Region

_ARTICLES = ("a", "an", "the")
_PLACEHOLDER = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True)
class ConceptReference:
    """One concept that an image should show.

    Attributes:
        name: the concept's name ("chow_dog"); for the embedded model CLASS-STYLE ("dog-noto").
        class_words: what to look for in images ("a dog").
        references: images of the concept, at least one.
        placeholders: what it is called in prompts; empty for every ``<...>`` that begins with the name.
    """

    name: str
    class_words: str
    references: tuple[Path, ...]
    placeholders: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConductorError("a concept to measure has no name; expected one such as 'chow_dog'")
        if not re.search(r"\w", self.class_words):
            raise ConductorError(f"the concept '{self.name}' has no class words; expected words such as 'a dog'")
        if not self.references:
            raise ConductorError(
                f"the concept '{self.name}' has no reference images; give the images it was trained on, or others "
                "that show it"
            )
        for file in self.references:
            if not os.path.isfile(file):
                raise ConductorError(f"the concept '{self.name}' has no reference image '{file}'; check the path")

    @property
    def noun(self) -> str:
        """The class words in lower case without article: "dog"."""
        words = self.class_words.lower().strip(" .").split()
        return " ".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)

    def owns(self, placeholder: str) -> bool:
        """Return whether ``placeholder`` (``<chow_dog_1>``) stands for this concept."""
        if self.placeholders:
            return placeholder in self.placeholders
        return re.fullmatch(rf"<{re.escape(self.name)}([_-]?\d+)?>", placeholder, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Item:
    """One image to measure.

    Attributes:
        image: the image's file.
        prompt: what it was asked to show; placeholders may stand in it.
        concepts: what it should show, each once; no two of one name. Text metrics need none.
        places: where each concept belongs, in their order; empty where that is not known.
    """

    image: Path
    prompt: str
    concepts: tuple[ConceptReference, ...]
    places: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        repeated = [name for name, times in Counter(concept.name for concept in self.concepts).items() if times > 1]
        if repeated:
            raise ConductorError(f"the concept '{repeated[0]}' is named twice for '{self.image}'; expected each once")
        if self.places and len(self.places) != len(self.concepts):
            raise ConductorError(
                f"{len(self.places)} places are given for the {len(self.concepts)} concepts of '{self.image}'; "
                "expected one for each, in their order"
            )

    @property
    def plain_prompt(self) -> str:
        """The prompt with class nouns for placeholders; runs of one concept's placeholders become one noun.

        Raises:
            ConductorError: a placeholder belongs to none of the concepts.
        """

        def noun(match: re.Match[str]) -> str:
            for concept in self.concepts:
                if concept.owns(match[0]):
                    return f"\0{concept.noun}\0"
            raise ConductorError(
                f"the placeholder {match[0]} in the prompt '{self.prompt}' belongs to none of the concepts "
                f"({', '.join(concept.name for concept in self.concepts) or 'there are none'})"
            )

        marked = _PLACEHOLDER.sub(noun, self.prompt)
        # placeholders that are no <...> have to be told
        for concept in self.concepts:
            for placeholder in concept.placeholders:
                if not _PLACEHOLDER.fullmatch(placeholder):
                    marked = re.sub(rf"(?<!\w){re.escape(placeholder)}(?!\w)", f"\0{concept.noun}\0", marked)
        once = re.sub(r"(\0[^\0]+\0)(?:\s+\1)+", r"\1", marked)
        return once.replace("\0", "")
