"""Omission and redundancy: fewer or more instances of a class than the prompt asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from concept_conductor.evaluation.metrics.items import ConceptReference


def prompted(concepts: Sequence[ConceptReference]) -> dict[str, int]:
    """Return how many instances of each class noun the concepts ask for: one each."""
    return dict(Counter(concept.noun for concept in concepts))


def differences(detected: Mapping[str, int], asked: Mapping[str, int]) -> dict[str, int]:
    """Return detected minus prompted instances of each prompted class."""
    return {noun: detected.get(noun, 0) - count for noun, count in asked.items()}


def omitted(difference: Mapping[str, int]) -> bool:
    """Return whether any class has too few; a benchmark reports the share of images."""
    return any(count < 0 for count in difference.values())


def redundant(difference: Mapping[str, int]) -> bool:
    """Return whether any class has too many; a benchmark reports the share of images."""
    return any(count > 0 for count in difference.values())
