"""Many images, many metrics: one row of numbers each, kept so that nothing is measured twice."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import Item
from concept_conductor.evaluation.metrics.observed_image import ObservedImage, References, Row
from concept_conductor.evaluation.metrics.registry import Metric, find_metrics
from concept_conductor.io.files import atomic_write, sha256_of

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
TOGETHER = 8
"""Images that are looked at in one go."""


def score_images(
    items: Sequence[Item],
    metrics: Sequence[str],
    instruments: Instruments,
    cache: Path | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Measure images.

    Args:
        items: the images, with what they should show.
        metrics: names in :data:`METRICS`, or of installed plug-ins'.
        instruments: the models to measure with; only those are loaded that a missing number needs.
        cache: a folder that keeps every number under the hash of the image, its prompt and references, the models
            and the metric's version; None to keep none.
        progress: told after each image how many are done, and of how many.

    Returns:
        For each item its columns: ``image`` (the path) and those of the metrics, which begin with the metric's name.
        Numbers, None where there is nothing to measure, JSON texts for details.

    Raises:
        ConductorError: an unknown metric, an image or reference that cannot be read, an item without the concepts
            that a metric needs, a model that cannot be loaded.
    """
    wanted = find_metrics(metrics)
    for item in items:
        if not os.path.isfile(item.image):
            raise ConductorError(f"there is no image '{item.image}' to score")
    check_items(items, wanted, instruments)
    references, rows = References(instruments), []
    hashes: dict[Path, str] = {}
    for start in range(0, len(items), TOGETHER):
        observed = [ObservedImage(item, instruments, references) for item in items[start : start + TOGETHER]]
        found: list[Row] = [{"image": str(one.item.image)} for one in observed]
        for metric in wanted:
            keys = [cache and cache / _key(metric, one.item, instruments, hashes) for one in observed]
            for row, columns in zip(found, _measured(metric, observed, keys)):
                row |= columns
        for row in found:
            rows.append(row)
            if progress is not None:
                progress(len(rows), len(items))
    return rows


def check_items(items: Sequence[Item], metrics: Sequence[Metric], instruments: Instruments) -> None:
    """Look whether all metrics can measure all items, before anything long begins.

    Raises:
        ConductorError: one cannot.
    """
    for item in items:
        for metric in metrics:
            if metric.needs_concepts and not item.concepts:
                raise ConductorError(
                    f"no concepts are given for '{item.image}', but the metric '{metric.name}' needs them: name, class "
                    "words and reference images of each"
                )
            if metric.check is not None:
                metric.check(item, instruments)


def _measured(metric: Metric, observed: Sequence[ObservedImage], entries: Sequence[Path | None]) -> list[Row]:
    """Return the columns of each image, kept ones where there are any; equal images are measured once."""
    known = {entry: row for entry in entries if entry is not None and (row := _read(entry)) is not None}
    fresh: dict[Path, ObservedImage] = {}
    for one, entry in zip(observed, entries):
        if entry is not None and entry not in known:
            fresh.setdefault(entry, one)
    if metric.prepare is not None:
        metric.prepare([*fresh.values(), *(one for one, entry in zip(observed, entries) if entry is None)])
    for entry, one in fresh.items():
        known[entry] = metric.measure(one)
        _write(entry, known[entry])
    return [metric.measure(one) if entry is None else known[entry] for one, entry in zip(observed, entries)]


def _key(metric: Metric, item: Item, instruments: Instruments, hashes: dict[Path, str]) -> str:
    """Return where a number is kept, below the cache's folder."""

    def hashed(file: Path) -> str:
        if file not in hashes:
            hashes[file] = sha256_of(file)
        return hashes[file]

    concepts = [
        [concept.name, concept.class_words, concept.placeholders, [hashed(file) for file in concept.references]]
        for concept in item.concepts
    ]
    models = [instruments.identity(name) for name in metric.instruments]
    parts = [CACHE_VERSION, metric.name, metric.version, models, hashed(item.image), item.prompt, concepts]
    if metric.by_place and item.places:
        parts.append([hashed(place) if isinstance(place, Path) else place for place in item.places])
    digest = sha256(json.dumps(parts).encode()).hexdigest()
    return f"{digest[:2]}/{digest}.json"


def _read(entry: Path) -> Row | None:
    """Read a kept row; None where there is none, or where it is damaged."""
    if not entry.is_file():
        return None
    try:
        row = json.loads(entry.read_text())
    except (ValueError, OSError) as error:
        logger.warning("the kept number %s is damaged (%s); it is measured anew", entry, error)
        return None
    if isinstance(row, dict) and all(value is None or isinstance(value, float | int | str) for value in row.values()):
        return row
    logger.warning("the kept number %s is none of ours; it is measured anew", entry)
    return None


def _write(entry: Path, columns: Row) -> None:
    """Keep a row; a full disk does not end the measuring."""
    try:
        with atomic_write(entry) as file:
            file.write(json.dumps(columns).encode())
    except (OSError, ConductorError) as error:
        logger.warning("a number could not be kept in %s (%s)", entry.parent, error)
