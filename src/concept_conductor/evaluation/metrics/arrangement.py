"""Arrangement: whether each concept stands where the layout wants it. (Two that changed places are no leakage.)"""

from __future__ import annotations

import json
from collections.abc import Sequence

from concept_conductor.evaluation.metrics.observed_image import ObservedImage, Row
from concept_conductor.evaluation.metrics.places import Region, place_mask, standing
from concept_conductor.evaluation.metrics.segsim import objects_of
from concept_conductor.mini.judge import Finding

OWN, ANOTHERS, EMPTY = "own", "another's", "empty"


def arrangement(observed: ObservedImage) -> Row:
    """Return the shares of places in which the object is most like their own concept, another one, or missing.

    Likeness is the mean cosine to a concept's references, as for leakage. Nothing is known of images without places.
    """
    if not observed.item.places:
        return {"arrangement": None}
    embedder, concepts = observed.instruments.likeness, observed.item.concepts
    objects: dict[int, tuple[int, int]] = {}  # number -> concept whose words found it first, and its segment
    for concept, numbers in enumerate(objects_of(observed.segments)):
        for segment, number in enumerate(numbers):
            objects.setdefault(number, (concept, segment))
    held = [objects[number] for number in range(len(objects))]
    vectors = observed.vectors(embedder)
    references = [observed.references.vectors(concept, embedder) for concept in concepts]
    outcomes = []
    masks = [observed.segments[concept][segment].mask for concept, segment in held]
    for own, standing_there in enumerate(standing(observed.places, masks)):
        if standing_there is None:
            outcomes.append(EMPTY)
            continue
        concept, segment = held[standing_there]
        likeness = [float((known @ vectors[concept][segment]).mean()) for known in references]
        outcomes.append(OWN if likeness[own] == max(likeness) else ANOTHERS)
    return {
        "arrangement": outcomes.count(OWN) / len(outcomes),
        "arrangement_others": outcomes.count(ANOTHERS) / len(outcomes),
        "arrangement_empty": outcomes.count(EMPTY) / len(outcomes),
        "arrangement_concepts": json.dumps(dict(zip((concept.name for concept in concepts), outcomes))),
    }


def designs_in_place(places: Sequence[Region], findings: Sequence[Finding], designs: Sequence[str]) -> list[bool]:
    """Return whether the embedded judge finds each concept's design (``class/style``) in its place."""
    if not findings:
        return [False] * len(designs)
    height, width = findings[0].mask.shape
    masks = [place_mask(place, (width, height)) for place in places]
    stands = standing(masks, [finding.mask for finding in findings])
    return [number is not None and findings[number].design == design for number, design in zip(stands, designs)]
