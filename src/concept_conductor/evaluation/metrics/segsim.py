"""SegSim, Algorithm 2 of the paper: how alike the segments of an image are to a concept's references.

A concept's similarities are a matrix `(references, segments)` of cosines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from concept_conductor.grounding.grounder import Segment
from concept_conductor.io.tensors import mask_iou

SAME_OBJECT = 0.5
"""Segments found for different words whose masks have a larger IoU than this are one object."""

AREAS = {"small": (0.0, 0.05), "medium": (0.05, 0.15), "large": (0.15, 1.01)}
"""Sizes of subjects: share of the image, lower bound included."""


def segsim(similarities: Tensor) -> float:
    """Return one concept's score: the mean over its references of the best segment's cosine; 0 without segments.

    Args:
        similarities: ``(references, segments)``.
    """
    return float(similarities.max(1).values.mean()) if similarities.numel() else 0.0


def best_segment(similarities: Tensor) -> int | None:
    """Return index of the segment that is most like the references on average; None without segments."""
    return int(similarities.mean(0).argmax()) if similarities.numel() else None


def one_to_one(similarities: Sequence[Tensor], objects: Sequence[Sequence[int]]) -> list[int | None]:
    """Give each concept a segment of its own: no object serves two, and the sum of mean cosines is greatest.

    Args:
        similarities: for each concept ``(references, segments)``.
        objects: for each concept the object that each of its segments shows, see :func:`objects_of`.

    Returns:
        For each concept the index of its segment; None where nothing is left for it, or nothing but segments whose
        cosine is below 0.
    """
    count = max((number for numbers in objects for number in numbers), default=-1) + 1
    gains = np.zeros((len(similarities), count))
    chosen = np.full(gains.shape, -1)
    for concept, (matrix, numbers) in enumerate(zip(similarities, objects)):
        for segment, number in enumerate(numbers):
            gain = float(matrix[:, segment].mean())
            if gain > gains[concept, number]:
                gains[concept, number], chosen[concept, number] = gain, segment
    return [None if number is None else int(row[number]) for row, number in zip(chosen, assigned(gains))]


def assigned(gains: NDArray[np.float64]) -> list[int | None]:
    """Give each row a column of its own so that the sum of gains is greatest (Hungarian method).

    Args:
        gains: ``(rows, columns)``, not below 0.

    Returns:
        For each row its column; None where no column is left, or none with a gain above 0.
    """
    found: list[int | None] = [None] * len(gains)
    for row, column in zip(*linear_sum_assignment(gains, maximize=True)):
        if gains[row, column] > 0:
            found[int(row)] = int(column)
    return found


def objects_of(segments: Sequence[Sequence[Segment]]) -> list[list[int]]:
    """Number the objects that segments show: those of different words that overlap by ``SAME_OBJECT`` are one.

    Args:
        segments: for each concept what was found for its words; two concepts of one class have the same segments.
    """
    seen: list[NDArray[np.bool_]] = []
    numbers = []
    for found in segments:
        row: list[int] = []
        for segment in found:
            # two segments of one list are two objects: the grounder has seen to it
            known = [(mask_iou(segment.mask, mask), n) for n, mask in enumerate(seen) if n not in row]
            share, number = max(known, default=(0.0, 0))
            if share <= SAME_OBJECT:
                number = len(seen)
                seen.append(segment.mask)
            row.append(number)
        numbers.append(row)
    return numbers


def area_name(mask: NDArray[np.bool_]) -> str:
    """Return which of ``AREAS`` a subject with this mask ``(h, w)`` belongs to."""
    share = mask.mean()
    return next(name for name, (least, below) in AREAS.items() if least <= share < below)


def by_area(scores: Sequence[float], areas: Sequence[str | None]) -> Mapping[str, float | None]:
    """Return the mean score of the subjects of each size; None where there is none. Those without size are left out."""
    means = {}
    for name in AREAS:
        held = [score for score, area in zip(scores, areas) if area == name]
        means[name] = sum(held) / len(held) if held else None
    return means


def leakage_matrix(matched: Sequence[int | None], references: Sequence[Tensor], segments: Sequence[Tensor]) -> Tensor:
    """Return how alike each concept's own segment is to every concept's references, as mean cosines.

    Args:
        matched: for each concept its segment, from :func:`one_to_one`.
        references: for each concept ``(references, d)``.
        segments: for each concept ``(segments, d)``.

    Returns:
        ``(concepts, concepts)``: row i is concept i's segment; NaN where it has none.
    """
    matrix = torch.full((len(matched), len(matched)), torch.nan)
    for row, number, vectors in zip(matrix, matched, segments):
        if number is not None:
            row.copy_(torch.stack([(known @ vectors[number]).mean() for known in references]))
    return matrix


def leakage(matrix: Tensor) -> float | None:
    """Return share of the segments whose nearest concept is another one of the image; None without any segment.

    Args:
        matrix: from :func:`leakage_matrix`.
    """
    own = [row.argmax().item() == index for index, row in enumerate(matrix) if not row.isnan().any()]
    return 1 - sum(own) / len(own) if own else None
