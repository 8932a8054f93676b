"""The metrics by name, and where plug-ins add theirs.

A package adds a metric by calling `register_metric`, or by an entry point of the group `concept_conductor.metrics`
that names a `Metric`:

    [project.entry-points."concept_conductor.metrics"]
    sharpness = "my_package:SHARPNESS"
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.arrangement import arrangement, designs_in_place
from concept_conductor.evaluation.metrics.clip_t import clip_t
from concept_conductor.evaluation.metrics.counting import differences, omitted, prompted, redundant
from concept_conductor.evaluation.metrics.embedders import Embedder
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import Item
from concept_conductor.evaluation.metrics.observed_image import ObservedImage, Row, embed, ground
from concept_conductor.evaluation.metrics.segsim import (
    area_name,
    best_segment,
    by_area,
    leakage,
    leakage_matrix,
    objects_of,
    one_to_one,
    segsim,
)
from concept_conductor.evaluation.registry import Registry
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.mini.judge import Finding


@dataclass(frozen=True)
class Metric:
    """A function on observed images.

    Attributes:
        name: what it is asked for by; its main column has the same name.
        summary: one line for people.
        version: raised whenever its numbers change, so that cached ones are not taken for new ones.
        instruments: names of the :class:`Instruments` that its numbers depend on.
        measure: gives the columns of one image.
        needs_concepts: whether an image without concepts is an error.
        by_place: whether its numbers depend on where the concepts belong.
        prepare: looks at several images in one go for what `measure` then asks of each; None where nothing is gained.
        check: raises ConductorError where an item cannot be measured; called before anything long begins, and maybe
            before the image is there.
    """

    name: str
    summary: str
    version: int
    instruments: tuple[str, ...]
    measure: Callable[[ObservedImage], Row]
    needs_concepts: bool = True
    by_place: bool = False
    prepare: Callable[[Sequence[ObservedImage]], None] | None = None
    check: Callable[[Item, Instruments], object] | None = None


METRICS = Registry(Metric, "metric", "concept_conductor.metrics")
register_metric, find_metrics = METRICS.register, METRICS.find


def default_metrics(instruments: Instruments) -> list[str]:
    """Name the paper's metrics, leakage and arrangement; for the embedded model those that need no hub."""
    if instruments.judge is not None:
        return ["design", "judge_i", "leakage", "arrangement", "omission", "redundancy"]
    return ["clip_t", "image_reward", "clip_i", "dino", "leakage", "arrangement", "omission", "redundancy"]


def _similarity(name: str, embedder: Callable[[Instruments], Embedder]) -> Callable[[ObservedImage], Row]:
    """Make SegSim with one embedder: the paper's matching, one-to-one beside it, and the paper's by subject area."""

    def measure(observed: ObservedImage) -> Row:
        similarities = observed.similarities(embedder(observed.instruments))
        scores = [segsim(matrix) for matrix in similarities]
        own = one_to_one(similarities, objects_of(observed.segments))
        strict = [
            0.0 if number is None else float(matrix[:, number].mean()) for matrix, number in zip(similarities, own)
        ]
        best = [best_segment(matrix) for matrix in similarities]
        areas = [None if k is None else area_name(found[k].mask) for k, found in zip(best, observed.segments)]
        named = {concept.name: round(score, 6) for concept, score in zip(observed.item.concepts, scores)}
        return {
            name: sum(scores) / len(scores),
            f"{name}_one_to_one": sum(strict) / len(strict),
            **{f"{name}_{area}": mean for area, mean in by_area(scores, areas).items()},
            f"{name}_concepts": json.dumps(named),
        }

    return measure


def _leakage(observed: ObservedImage) -> Row:
    embedder, concepts = observed.instruments.likeness, observed.item.concepts
    similarities = observed.similarities(embedder)
    own = one_to_one(similarities, objects_of(observed.segments))
    references = [observed.references.vectors(concept, embedder) for concept in concepts]
    matrix = leakage_matrix(own, references, observed.vectors(embedder))
    rows = [[round(value, 6) for value in row.tolist()] if not row.isnan().any() else None for row in matrix]
    return {"leakage": leakage(matrix) if len(concepts) > 1 else None, "leakage_matrix": json.dumps(rows)}


def _count(observed: ObservedImage) -> Mapping[str, int]:
    detected = {concept.noun: len(found) for concept, found in zip(observed.item.concepts, observed.segments)}
    return differences(detected, prompted(observed.item.concepts))


def _omission(observed: ObservedImage) -> Row:
    counts = _count(observed)
    return {"omission": float(omitted(counts)), "count_differences": json.dumps(counts)}


def _redundancy(observed: ObservedImage) -> Row:
    counts = _count(observed)
    return {"redundancy": float(redundant(counts)), "count_differences": json.dumps(counts)}


def _of_text(
    name: str,
    summary: str,
    instrument: str,
    score: Callable[[Instruments, Sequence[Image.Image], Sequence[str]], list[float]],
) -> Metric:
    """Make a metric of image and prompt that scores many in one go."""

    def prepare(observations: Sequence[ObservedImage]) -> None:
        waiting = [observed for observed in observations if name not in observed.numbers]
        if waiting:
            images, prompts = [one.image for one in waiting], [one.item.plain_prompt for one in waiting]
            for observed, number in zip(waiting, score(waiting[0].instruments, images, prompts)):
                observed.numbers[name] = number

    def measure(observed: ObservedImage) -> Row:
        prepare([observed])
        return {name: observed.numbers[name]}

    return Metric(
        name, summary, 1, (instrument,), measure, needs_concepts=False, prepare=prepare,
        check=lambda item, instruments: item.plain_prompt,
    )  # fmt: skip


def _classes(item: Item, instruments: Instruments) -> None:
    """Raise ConductorError where the judge is to find what it has no word for; Grounded-SAM looks for anything."""
    if instruments.judge is not None:
        for concept in item.concepts:
            JudgeGrounder(instruments.judge).class_of(concept.class_words)


def _designs(item: Item, instruments: Instruments) -> list[str]:
    """Return the concepts' designs, as the judge names them."""
    if instruments.judge is None:
        raise ConductorError(
            "the metric 'design' needs the embedded model's judge; it measures images of the model 'mini' only"
        )
    known, designs = instruments.judge.designs, []
    for concept in item.concepts:
        designs.append(concept.name.replace("-", "/", 1))
        if designs[-1] not in known:
            raise ConductorError(
                f"the metric 'design' knows nothing of the concept '{concept.name}'; name it CLASS-STYLE, one of "
                f"{', '.join(name.replace('/', '-') for name in known)}, or leave that metric out"
            )
    return designs


def _design(observed: ObservedImage) -> Row:
    designs = _designs(observed.item, observed.instruments)
    judge = observed.instruments.judge
    assert judge is not None  # as _designs has found
    findings = judge.find(observed.image)
    outcomes = judged(findings, designs)
    count = len(outcomes)
    row: Row = {
        "design": outcomes.count("present") / count,
        "design_all": float(outcomes.count("present") == count),
        "design_omitted": outcomes.count("omitted") / count,
        "design_leaked": outcomes.count("leaked") / count,
        "design_concepts": json.dumps(dict(zip((concept.name for concept in observed.item.concepts), outcomes))),
    }
    if observed.item.places:
        row["design_in_place"] = sum(designs_in_place(observed.item.places, findings, designs)) / count
    return row


def judged(findings: Sequence[Finding], designs: Sequence[str]) -> list[str]:
    """Return what became of each concept.

    "present": in its own design; "leaked": an object of its class has another design; "omitted": no object is left
    for it. Each finding counts for one concept at most.

    Args:
        designs: each concept's ``class/style``.
    """
    left = Counter(finding.design for finding in findings)
    outcomes = []
    for design in designs:
        present = left[design] > 0
        left[design] -= present
        outcomes.append("present" if present else "")
    for index, design in enumerate(designs):
        if not outcomes[index]:
            other = next((d for d in left if left[d] > 0 and d.split("/")[0] == design.split("/")[0]), None)
            if other is not None:
                left[other] -= 1
            outcomes[index] = "omitted" if other is None else "leaked"
    return outcomes


def _embedded(embedder: Callable[[Instruments], Embedder]) -> Callable[[Sequence[ObservedImage]], None]:
    def prepare(observations: Sequence[ObservedImage]) -> None:
        if observations:
            embed(observations, embedder(observations[0].instruments))

    return prepare


def _likeness(name: str, summary: str, instrument: str) -> Metric:
    """Make SegSim with one of the instruments."""
    embedder: Callable[[Instruments], Embedder] = attrgetter(instrument)
    instruments = ("grounder", instrument)
    measure = _similarity(name, embedder)
    return Metric(name, summary, 1, instruments, measure, prepare=_embedded(embedder), check=_classes)


for _metric in (
    _likeness("clip_i", "SegSim with CLIP's image encoder", "clip"),
    _likeness("dino", "SegSim with DINOv2", "dino"),
    _likeness("judge_i", "SegSim with the embedded judge's features", "judge_features"),
    _of_text("clip_t", "cosine of image and prompt by CLIP", "clip",
             lambda instruments, images, prompts: clip_t(instruments.clip, images, prompts)),
    _of_text("image_reward", "ImageReward", "image_reward",
             lambda instruments, images, prompts: instruments.image_reward.score(images, prompts)),
    Metric("omission", "1 where a class has too few instances", 1, ("grounder",), _omission, prepare=ground,
           check=_classes),
    Metric("redundancy", "1 where a class has too many instances", 1, ("grounder",), _redundancy, prepare=ground,
           check=_classes),
    Metric("leakage", "share of segments that look most like another concept", 1, ("grounder", "likeness"), _leakage,
           prepare=_embedded(attrgetter("likeness")), check=_classes),
    Metric("arrangement", "share of concepts that stand in their place", 1, ("grounder", "likeness"), arrangement,
           by_place=True, prepare=_embedded(attrgetter("likeness")), check=_classes),
    Metric("design", "share of concepts that the embedded judge recognises", 1, ("judge_features",), _design,
           by_place=True, check=_designs),
):  # fmt: skip
    register_metric(_metric)
