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
from importlib.metadata import entry_points
from operator import attrgetter

from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.arrangement import arrangement, designs_in_place
from concept_conductor.evaluation.metrics.clip_t import clip_t
from concept_conductor.evaluation.metrics.counting import differences, omitted, prompted, redundant
from concept_conductor.evaluation.metrics.embedders import Embedder
from concept_conductor.evaluation.metrics.instruments import Instruments
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
from concept_conductor.mini.judge import Finding

GROUP = "concept_conductor.metrics"


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
    """

    name: str
    summary: str
    version: int
    instruments: tuple[str, ...]
    measure: Callable[[ObservedImage], Row]
    needs_concepts: bool = True
    by_place: bool = False
    prepare: Callable[[Sequence[ObservedImage]], None] | None = None


METRICS: dict[str, Metric] = {}


def register_metric(metric: Metric) -> None:
    """Make a metric known.

    Raises:
        ConductorError: another one has its name.
    """
    if METRICS.setdefault(metric.name, metric) != metric:
        raise ConductorError(f"a metric '{metric.name}' is known already; expected another name")


def find_metrics(names: Sequence[str]) -> list[Metric]:
    """The metrics of these names; those of installed packages are looked for where a name is not known yet.

    Raises:
        ConductorError: no name came, one is not known, or a package's entry point is no :class:`Metric`.
    """
    if not names:
        raise ConductorError(f"no metric was named; expected some of {', '.join(METRICS)}")
    if not set(names) <= set(METRICS):
        _load_entry_points()
    if unknown := [name for name in names if name not in METRICS]:
        raise ConductorError(f"there is no metric '{unknown[0]}'; expected some of {', '.join(METRICS)}")
    return [METRICS[name] for name in dict.fromkeys(names)]


def default_metrics(instruments: Instruments) -> list[str]:
    """The paper's metrics, leakage and arrangement; for the embedded model those that need nothing from the hub."""
    if instruments.judge is not None:
        return ["design", "judge_i", "leakage", "arrangement", "omission", "redundancy"]
    return ["clip_t", "image_reward", "clip_i", "dino", "leakage", "arrangement", "omission", "redundancy"]


def _load_entry_points() -> None:
    for entry in entry_points(group=GROUP):
        metric = entry.load()
        if not isinstance(metric, Metric):
            raise ConductorError(
                f"the entry point '{entry.name}' of {GROUP} gives a {type(metric).__name__}; expected a Metric"
            )
        register_metric(metric)


def _similarity(name: str, embedder: Callable[[Instruments], Embedder]) -> Callable[[ObservedImage], Row]:
    """SegSim with one embedder: the paper's matching, one-to-one beside it, and the paper's by subject area."""

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
    """A metric of image and prompt that scores many in one go."""

    def prepare(observations: Sequence[ObservedImage]) -> None:
        waiting = [observed for observed in observations if name not in observed.numbers]
        if waiting:
            images, prompts = [one.image for one in waiting], [one.item.plain_prompt for one in waiting]
            for observed, number in zip(waiting, score(waiting[0].instruments, images, prompts)):
                observed.numbers[name] = number

    def measure(observed: ObservedImage) -> Row:
        prepare([observed])
        return {name: observed.numbers[name]}

    return Metric(name, summary, 1, (instrument,), measure, needs_concepts=False, prepare=prepare)


def _design(observed: ObservedImage) -> Row:
    judge = observed.instruments.judge
    if judge is None:
        raise ConductorError(
            "the metric 'design' needs the embedded model's judge; it measures images of the model 'mini' only"
        )
    designs = []
    for concept in observed.item.concepts:
        design = concept.name.replace("-", "/", 1)
        if design not in judge.designs:
            raise ConductorError(
                f"the judge knows no design of the concept '{concept.name}'; expected CLASS-STYLE, one of "
                f"{', '.join(name.replace('/', '-') for name in judge.designs)}"
            )
        designs.append(design)
    findings = judge.find(observed.image)
    fates = judged(findings, designs)
    count = len(fates)
    row: Row = {
        "design": fates.count("present") / count,
        "design_all": float(fates.count("present") == count),
        "design_omitted": fates.count("omitted") / count,
        "design_leaked": fates.count("leaked") / count,
        "design_concepts": json.dumps(dict(zip((concept.name for concept in observed.item.concepts), fates))),
    }
    if observed.item.places:
        row["design_in_place"] = sum(designs_in_place(observed.item.places, findings, designs)) / count
    return row


def judged(findings: Sequence[Finding], designs: Sequence[str]) -> list[str]:
    """What became of each concept: "present" in its own design, "leaked": an object of its class has another design,
    "omitted": no object is left for it. Each finding counts for one concept at most.

    Args:
        designs: each concept's ``class/style``.
    """
    left = Counter(finding.design for finding in findings)
    fates = []
    for design in designs:
        present = left[design] > 0
        left[design] -= present
        fates.append("present" if present else "")
    for index, design in enumerate(designs):
        if not fates[index]:
            other = next((d for d in left if left[d] > 0 and d.split("/")[0] == design.split("/")[0]), None)
            if other is not None:
                left[other] -= 1
            fates[index] = "omitted" if other is None else "leaked"
    return fates


def _embedded(embedder: Callable[[Instruments], Embedder]) -> Callable[[Sequence[ObservedImage]], None]:
    def prepare(observations: Sequence[ObservedImage]) -> None:
        if observations:
            embed(observations, embedder(observations[0].instruments))

    return prepare


def _likeness(name: str, summary: str, instrument: str) -> Metric:
    """SegSim with one of the instruments."""
    embedder: Callable[[Instruments], Embedder] = attrgetter(instrument)
    instruments = ("grounder", instrument)
    return Metric(name, summary, 1, instruments, _similarity(name, embedder), prepare=_embedded(embedder))


for _metric in (
    _likeness("clip_i", "SegSim with CLIP's image encoder", "clip"),
    _likeness("dino", "SegSim with DINOv2", "dino"),
    _likeness("judge_i", "SegSim with the embedded judge's features", "judge_features"),
    _of_text("clip_t", "cosine of image and prompt by CLIP", "clip",
             lambda instruments, images, prompts: clip_t(instruments.clip, images, prompts)),
    _of_text("image_reward", "ImageReward", "image_reward",
             lambda instruments, images, prompts: instruments.image_reward.score(images, prompts)),
    Metric("omission", "1 where a class has too few instances", 1, ("grounder",), _omission, prepare=ground),
    Metric("redundancy", "1 where a class has too many instances", 1, ("grounder",), _redundancy, prepare=ground),
    Metric("leakage", "share of segments that look most like another concept", 1, ("grounder", "likeness"), _leakage,
           prepare=_embedded(attrgetter("likeness"))),
    Metric("arrangement", "share of concepts that stand in their place", 1, ("grounder", "likeness"), arrangement,
           by_place=True, prepare=_embedded(attrgetter("likeness"))),
    Metric("design", "share of concepts that the embedded judge recognises", 1, ("judge_features",), _design,
           by_place=True),
):  # fmt: skip
    register_metric(_metric)
