"""Images under measurement: what several metrics need of one is found once, and of several images in one go."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_conductor.evaluation.metrics.crops import cut_out
from concept_conductor.evaluation.metrics.embedders import Embedder
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import ConceptReference, Item
from concept_conductor.evaluation.metrics.places import place_mask
from concept_conductor.grounding.grounder import Segment
from concept_conductor.io.images import load_image

logger = logging.getLogger(__name__)

Row = dict[str, float | str | None]
"""Columns of one image. Numbers are averaged by reports, None left out; text is shown as it is."""


class References:
    """The concepts' references, cut out and embedded once for all images.

    Args:
        instruments: what they are measured with.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.instruments = instruments
        self._crops: dict[tuple[Path, str], Image.Image] = {}
        self._vectors: dict[tuple[ConceptReference, int], Tensor] = {}

    def vectors(self, concept: ConceptReference, embedder: Embedder) -> Tensor:
        """Return ``(references, d)``: each reference's segment of the class (s_r of Algorithm 2), embedded."""
        key = (concept, id(embedder))
        if key not in self._vectors:
            self._vectors[key] = embedder.embed(self.crops(concept))
        return self._vectors[key]

    def crops(self, concept: ConceptReference) -> list[Image.Image]:
        """Cut out the surest segment of the class in each reference; all of it, with a warning, where none is found."""
        missing = [file for file in concept.references if (file, concept.noun) not in self._crops]
        images = [load_image(file) for file in missing]
        found_in = self.instruments.grounder.find_all(images, [[concept.class_words]] * len(images))
        for file, image, (found,) in zip(missing, images, found_in):
            if not found:
                logger.warning(
                    "no '%s' is found in the reference %s of '%s'; the whole image is taken",
                    *(concept.class_words, file, concept.name),
                )
            self._crops[file, concept.noun] = cut_out(image, found[0]) if found else image
        return [self._crops[file, concept.noun] for file in concept.references]


class ObservedImage:
    """One item, with what is seen in its image.

    Args:
        item: the image, its prompt and its concepts.
        instruments: what it is measured with.
        references: shared between items of the same instruments.

    Attributes:
        numbers: metric -> its number, where several images were scored in one go.
    """

    def __init__(self, item: Item, instruments: Instruments, references: References | None = None) -> None:
        self.item, self.instruments = item, instruments
        self.references = references or References(instruments)
        self.numbers: dict[str, float] = {}
        self._segments: list[list[Segment]] | None = None
        self._vectors: dict[int, list[Tensor]] = {}

    @cached_property
    def image(self) -> Image.Image:
        """The image, RGB."""
        return load_image(self.item.image)

    @cached_property
    def places(self) -> list[NDArray[np.bool_]]:
        """Where each concept belongs, as masks ``(h, w)`` of the image; none where that is not known."""
        return [place_mask(place, self.image.size) for place in self.item.places]

    @property
    def segments(self) -> list[list[Segment]]:
        """For each concept what is found for its class words; the same objects for concepts of one class."""
        if self._segments is None:
            ground([self])
        assert self._segments is not None
        return self._segments

    def vectors(self, embedder: Embedder) -> list[Tensor]:
        """Return for each concept its segments embedded, ``(segments, d)``."""
        if id(embedder) not in self._vectors:
            embed([self], embedder)
        return self._vectors[id(embedder)]

    def similarities(self, embedder: Embedder) -> list[Tensor]:
        """Return for each concept the cosines ``(references, segments)`` of its segments to its own references."""
        matrices = []
        for concept, vectors in zip(self.item.concepts, self.vectors(embedder)):
            references = self.references.vectors(concept, embedder)
            matrices.append(references @ vectors.T if len(vectors) else torch.zeros(len(references), 0))
        return matrices


def ground(observations: Sequence[ObservedImage]) -> None:
    """Find the segments of several images, measured with the same instruments, in one go."""
    waiting = [observed for observed in observations if observed._segments is None]
    if not waiting:
        return
    words = [
        {concept.noun: concept.class_words for concept in reversed(observed.item.concepts)} for observed in waiting
    ]
    grounder = waiting[0].instruments.grounder
    found_in = grounder.find_all([observed.image for observed in waiting], [list(own.values()) for own in words])
    for observed, own, segments in zip(waiting, words, found_in):
        found = dict(zip(own, segments))
        observed._segments = [found[concept.noun] for concept in observed.item.concepts]


def embed(observations: Sequence[ObservedImage], embedder: Embedder) -> None:
    """Embed the segments of several images in one go."""
    ground(observations)
    waiting = [observed for observed in observations if id(embedder) not in observed._vectors]
    crops: list[Image.Image] = []
    counts: list[int] = []
    for observed in waiting:
        for segments in _distinct(observed).values():
            crops += [cut_out(observed.image, segment) for segment in segments]
            counts.append(len(segments))
    parts = iter(embedder.embed(crops).split(counts))
    for observed in waiting:
        by_noun = {noun: next(parts) for noun in _distinct(observed)}
        observed._vectors[id(embedder)] = [by_noun[concept.noun] for concept in observed.item.concepts]


def _distinct(observed: ObservedImage) -> dict[str, list[Segment]]:
    """Map each class noun to its segments."""
    return {concept.noun: found for concept, found in zip(observed.item.concepts, observed.segments)}
