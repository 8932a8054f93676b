"""One picture under measurement: what several metrics need of it is found once."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from concept_conductor.evaluation.cutouts import cut_out
from concept_conductor.evaluation.embedders import Embedder
from concept_conductor.evaluation.grounding import Segment
from concept_conductor.evaluation.instruments import Instruments
from concept_conductor.evaluation.items import Item, Subject
from concept_conductor.images import load_image

logger = logging.getLogger(__name__)


class References:
    """The concepts' references, cut out and embedded once for all pictures.

    Args:
        instruments: what they are measured with.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.instruments = instruments
        self._crops: dict[tuple[Path, str], Image.Image] = {}
        self._vectors: dict[tuple[Subject, int], Tensor] = {}

    def vectors(self, concept: Subject, embedder: Embedder) -> Tensor:
        """``(references, d)``: each reference's segment of the concept's class (s_r of Algorithm 2), embedded."""
        key = (concept, id(embedder))
        if key not in self._vectors:
            self._vectors[key] = embedder.embed([self.crop(file, concept) for file in concept.references])
        return self._vectors[key]

    def crop(self, file: Path, concept: Subject) -> Image.Image:
        """The surest segment of the class in a reference; all of it, with a warning, where none is found."""
        key = (file, concept.noun)
        if key not in self._crops:
            image = load_image(file)
            (found,) = self.instruments.grounder.find(image, [concept.class_words])
            if not found:
                logger.warning(
                    "no '%s' is found in the reference %s of '%s'; the whole picture is taken",
                    *(concept.class_words, file, concept.name),
                )
            self._crops[key] = cut_out(image, found[0]) if found else image
        return self._crops[key]


class Observation:
    """One item, with what is seen in its picture.

    Args:
        item: the picture, its prompt and its concepts.
        instruments: what it is measured with.
        references: shared between items of the same instruments.
    """

    def __init__(self, item: Item, instruments: Instruments, references: References | None = None) -> None:
        self.item, self.instruments = item, instruments
        self.references = references or References(instruments)
        self._vectors: dict[int, list[Tensor]] = {}

    @cached_property
    def image(self) -> Image.Image:
        """The picture, RGB."""
        return load_image(self.item.image)

    @cached_property
    def segments(self) -> list[list[Segment]]:
        """For each concept what is found for its class words; the same objects for concepts of one class."""
        words = {concept.noun: concept.class_words for concept in reversed(self.item.concepts)}
        found = dict(zip(words, self.instruments.grounder.find(self.image, list(words.values()))))
        return [found[concept.noun] for concept in self.item.concepts]

    def vectors(self, embedder: Embedder) -> list[Tensor]:
        """For each concept its segments embedded, ``(segments, d)``; all in one batch."""
        if id(embedder) not in self._vectors:
            distinct = {concept.noun: found for concept, found in zip(self.item.concepts, self.segments)}
            crops = [cut_out(self.image, segment) for found in distinct.values() for segment in found]
            parts = embedder.embed(crops).split([len(found) for found in distinct.values()])
            by_noun = dict(zip(distinct, parts))
            self._vectors[id(embedder)] = [by_noun[concept.noun] for concept in self.item.concepts]
        return self._vectors[id(embedder)]

    def similarities(self, embedder: Embedder) -> list[Tensor]:
        """For each concept the cosines ``(references, segments)`` of its segments to its own references."""
        matrices = []
        for concept, vectors in zip(self.item.concepts, self.vectors(embedder)):
            references = self.references.vectors(concept, embedder)
            matrices.append(references @ vectors.T if len(vectors) else torch.zeros(len(references), 0))
        return matrices
