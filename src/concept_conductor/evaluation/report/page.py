"""The page that shows an evaluation: table, plots, and every image with its masks and scores.

One file: reduced copies of the images are in it, so that it can be sent around; the large view takes the whole
image from the results folder while the page lies there, and the reduced one elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.evaluation.benchmark.mini_images import references_of
from concept_conductor.evaluation.benchmark.results import ResultsFolder
from concept_conductor.evaluation.report.plots import SHOWN
from concept_conductor.evaluation.report.table import (
    ABOUT,
    AREAS,
    LOWER_IS_BETTER,
    REFERENCE,
    arrowed,
    metric_columns,
)
from concept_conductor.io.drawing import MASK_COLOURS
from concept_conductor.io.files import atomic_write
from concept_conductor.io.html import data_uri, embedded_json, mask_uri, png_uri, render, webp_uri
from concept_conductor.io.images import load_image

if TYPE_CHECKING:
    import pandas as pd

HEADINGS = {"means": "Means", "differences": "Paired differences to the full method"}
TEMPLATE = Path(__file__).parent / "report.html"
SIDE = 256
"""Longest side of a reduced copy."""
SMALL_SIDE = 96
"""Longest side of references."""


def write_page(
    benchmark: Benchmark,
    folder: ResultsFolder,
    jobs: Sequence[Job],
    results: pd.DataFrame,
    table: pd.DataFrame,
    plots: Mapping[str, bytes],
) -> Path:
    """Write ``index.html``.

    Args:
        benchmark: what was run.
        folder: of the results.
        jobs: all finished.
        results: a row for each job, in their order.
        table: from :func:`~concept_conductor.evaluation.report.table.summary`.
        plots: from :func:`~concept_conductor.evaluation.report.plots.draw`.
    """
    titles = {job.group.method.name: job.group.method.title for job in jobs}
    text = render(
        TEMPLATE.read_text(encoding="utf-8"),
        title=benchmark.name,
        images=len(jobs),
        scenes=len({(job.group.scene.combination, job.group.scene.prompt) for job in jobs}),
        methods=len(titles),
        model=benchmark.model,
        minutes=f"{results['seconds'].sum() / 60:.1f}",
        version=benchmark.version,
        tables=[found for part in ("mean", "difference") if (found := _table(table, titles, part))],
        plots=[_plot(plots, what) for what in SHOWN if f"{what}-light.svg" in plots],
        data=embedded_json(_data(benchmark, folder, jobs, results, titles)),
    )
    target = folder.path / "index.html"
    with atomic_write(target) as file:
        file.write(text.encode())
    return target


def _data(
    benchmark: Benchmark,
    folder: ResultsFolder,
    jobs: Sequence[Job],
    results: pd.DataFrame,
    titles: Mapping[str, str],
) -> dict[str, Any]:
    """Return what the page's script shows."""
    metrics = metric_columns(results)
    concepts = dict.fromkeys(name for job in jobs for name in job.group.scene.concepts)
    layouts: dict[str, str] = {}
    images = []
    for job, row in zip(jobs, results.to_dict("records"), strict=True):
        scene = job.group.scene
        name = f"{scene.combination} / {scene.prompt}"
        layout = job.group.paths.get(("layout", "image"))  # others are made as the run goes
        if name not in layouts and layout is not None:
            layouts[name] = _reduced(load_image(layout), SIDE)
        images.append(
            {
                **{key: row[key] for key in ("method", "combination", "prompt", "text", "seed", "image", "seconds")},
                "scene": name,
                "concepts": list(scene.concepts),
                "thumb": _reduced(load_image(folder.image(job.key)), SIDE),
                "masks": [mask_uri(mask) for mask in folder.masks(job.key)],
                "scores": {key: _plain(value) for key, value in row.items() if key not in ABOUT},
            }
        )
    return {
        "titles": titles,
        "first": REFERENCE if REFERENCE in titles else next(iter(titles)),
        "metrics": metrics,
        "lower": [name for name in metrics if name.startswith(LOWER_IS_BETTER)],
        "colours": [f"#{colour}" for colour in MASK_COLOURS],
        "layouts": layouts,
        "references": {
            name: [_reduced(load_image(file), SMALL_SIDE) for file in references_of(benchmark, name, folder.references)]
            for name in concepts
        },
        "images": images,
    }


def _table(table: pd.DataFrame, titles: Mapping[str, str], part: str) -> dict[str, Any] | None:
    """Return means or differences as the page's template shows them; None where there are none."""
    low, high = (f"{part}_low", f"{part}_high") if part == "difference" else ("low", "high")
    held = table[table[part].notna() & ~table["metric"].str.endswith(AREAS)]
    if held.empty:
        return None
    metrics = list(dict.fromkeys(held["metric"]))
    best = {name: (_sign(name) * rows[part]).max() if part == "mean" else None for name, rows in held.groupby("metric")}
    rows = []
    for method, own in held.groupby("method", sort=False):
        entries = {entry["metric"]: entry for entry in own.to_dict("records")}
        cells = [
            _cell(entries[name][part], entries[name][low], entries[name][high], _sign(name), best[name])
            if name in entries
            else {"kind": "", "value": "–", "interval": ""}
            for name in metrics
        ]
        rows.append({"title": titles[str(method)], "cells": cells})
    heading = HEADINGS["differences" if part == "difference" else "means"]
    return {"heading": heading, "metrics": [arrowed(name) for name in metrics], "rows": rows}


def _sign(metric: str) -> int:
    return -1 if metric.startswith(LOWER_IS_BETTER) else 1


def _cell(value: float, low: float, high: float, sign: int, best: float | None) -> dict[str, str]:
    """Return a number of the table: the best mean bold, a difference coloured if its interval lies on one side of 0."""
    if best is not None:
        kind = "best" if sign * value == best else ""
    else:
        kind = "better" if min(sign * low, sign * high) > 0 else "worse" if max(sign * low, sign * high) < 0 else ""
    interval = f"{low:.3f} to {high:.3f}" if math.isfinite(low) else ""
    return {"kind": kind, "value": f"{value:.3f}", "interval": interval}


def _plot(plots: Mapping[str, bytes], what: str) -> dict[str, str]:
    """Return a plot in light and dark; the reader's choice decides which is shown."""
    light, dark = (data_uri(plots[f"{what}-{theme}.svg"], "svg+xml") for theme in ("light", "dark"))
    return {"heading": HEADINGS[what], "alt": f"{what} by method", "light": light, "dark": dark}


def _reduced(image: Image.Image, side: int) -> str:
    """Return an image as a data URI: whole and exact where it is small, else reduced."""
    if max(image.size) <= side // 2:
        return png_uri(image)
    copy = image.copy()
    copy.thumbnail((side, side))
    return webp_uri(copy)


def _plain(value: Any) -> Any:
    """Return a number as JSON has it."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
