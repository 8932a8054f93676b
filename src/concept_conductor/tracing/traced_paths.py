"""What is traced: the layout reference, the base path, and every concept's path, with their words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from concept_conductor.backbones.base import Backbone
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.io.drawing import MASK_COLOURS
from concept_conductor.io.files import safe_name
from concept_conductor.io.printable import one_line
from concept_conductor.layouts.layout import Layout
from concept_conductor.tracing.prompt_words import Word, differing, marked, words_of
from concept_conductor.tracing.trace import Trace

BASE = "base path"
REFERENCE = "layout reference"


@dataclass(frozen=True)
class TracedPath:
    """One of the processes that a trace shows.

    Attributes:
        name: for people.
        folder: for files.
        prompt: what its first text encoder reads.
        words: of the prompt.
        colour: of its concept's masks, ``#rrggbb``; None for the base path and the reference.
    """

    name: str
    folder: str
    prompt: str
    words: tuple[Word, ...]
    colour: str | None = None

    @property
    def foreground(self) -> str:
        """The foreground's words, each once, for a caption; empty where there are none."""
        return ", ".join(dict.fromkeys(word.text for word in self.words if word.foreground))

    def heat(self, attention: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how much every place attends to each word, and to the foreground's words on average.

        Args:
            attention: ``(tokens, text tokens)``, probabilities.

        Returns:
            ``(words, tokens)``, a word's tokens being added up; where there are foreground words their mean comes last.
        """
        maps = [attention[:, list(word.positions)].sum(1) for word in self.words]
        foreground = [heat for heat, word in zip(maps, self.words, strict=True) if word.foreground]
        if foreground:
            maps.append(np.mean(foreground, axis=0))
        return np.stack(maps) if maps else np.zeros((0, len(attention)), dtype=np.float32)

    @property
    def captions(self) -> list[str]:
        """Of the maps of :meth:`heat`."""
        return [word.text for word in self.words] + ([f"mean of {self.foreground}"] if self.foreground else [])


def traced_paths_of(
    trace: Trace, backbone: Backbone, prompt: str, concepts: Sequence[ConceptPrompt], layout: Layout | None
) -> tuple[TracedPath | None, tuple[TracedPath, ...]]:
    """Return the layout reference, if there is a layout, and all paths, the base path first.

    Words and tokens are those of the first text encoder, which SDXL's second shares its tokenizer's vocabulary with.
    """
    tokenizer = backbone.text_encoders[0].tokenizer
    base = words_of(tokenizer, prompt)
    paths = []
    for number, entry in enumerate(concepts, 1):
        concept, variant = entry.concept, entry.variant(prompt)
        words = words_of(tokenizer, variant, concept.placeholders, concept.positions)
        base, words = differing(base, words)
        colour = f"#{MASK_COLOURS[(number - 1) % len(MASK_COLOURS)]}"
        paths.append(
            TracedPath(
                f"concept {number}, {one_line(concept.name)}",
                f"concept-{number}-{safe_name(concept.name)}",
                variant,
                words,
                colour,
            )
        )
    if trace.foreground:
        base = marked(words_of(tokenizer, prompt), trace.foreground)
    named = {word.text for word in base if word.foreground}
    reference = None
    if layout is not None:
        words = marked(words_of(tokenizer, layout.prompt), named | set(trace.foreground))
        reference = TracedPath(REFERENCE, "reference", layout.prompt, words)
    return reference, (TracedPath(BASE, "base", prompt, base), *paths)
