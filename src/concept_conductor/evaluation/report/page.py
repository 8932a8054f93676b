"""The page that shows an evaluation: table, plots, and every image with its masks and scores.

One file: reduced copies of the images are in it, so that it can be sent around; the large view takes the whole
image from the results folder while the page lies there, and the reduced one elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
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
from concept_conductor.io.html import data_uri, embedded_json, mask_uri, png_uri, webp_uri
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
        table: from :func:`~concept_conductor.evaluation.table.summary`.
        plots: from :func:`~concept_conductor.evaluation.plots.draw`.
    """
    titles = {job.group.method.name: job.group.method.title for job in jobs}
    prompts = len({(job.group.scene.combination, job.group.scene.prompt) for job in jobs})
    minutes = results["seconds"].sum() / 60
    head = (
        f"<p>{len(jobs)} images of {prompts} scenes by {len(titles)} methods, made by {escape(benchmark.model)} in "
        f"{minutes:.1f} minutes of computing; benchmark version {benchmark.version}.</p>"
        '<p class="soft">Means with 95% bootstrap intervals over prompts. More in '
        '<a href="summary.csv">summary.csv</a>, <a href="manifest.json">manifest.json</a> and results.parquet.</p>'
    )
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(benchmark.name),
        head=head,
        table="".join(_table(table, titles, part) for part in ("mean", "difference")),
        plots=_images_of(plots),
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
    """What the page's script shows."""
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


def _table(table: pd.DataFrame, titles: Mapping[str, str], part: str) -> str:
    """Means, the best of each metric bold, or differences, coloured where the interval is on one side of 0."""
    low, high = (f"{part}_low", f"{part}_high") if part == "difference" else ("low", "high")
    held = table[table[part].notna() & ~table["metric"].str.endswith(AREAS)]
    if held.empty:
        return ""
    metrics = list(dict.fromkeys(held["metric"]))
    lines = "".join(f"<th>{escape(arrowed(name))}</th>" for name in metrics)
    caption = HEADINGS["differences" if part == "difference" else "means"]
    rows = [f"<tr><th>method</th>{lines}</tr>"]
    for method in dict.fromkeys(held["method"]):
        cells = []
        for metric in metrics:
            all_of_it = held[held["metric"] == metric]
            own = all_of_it[all_of_it["method"] == method]
            if own.empty:
                cells.append("<td>–</td>")
                continue
            entry = own.iloc[0]
            sign = -1 if metric.startswith(LOWER_IS_BETTER) else 1
            kind = ""
            if part == "mean":
                kind = "best" if sign * entry[part] == (sign * all_of_it[part]).max() else ""
            elif min(sign * entry[low], sign * entry[high]) > 0:
                kind = "better"
            elif max(sign * entry[low], sign * entry[high]) < 0:
                kind = "worse"
            interval = f"<small>{entry[low]:.3f} to {entry[high]:.3f}</small>" if math.isfinite(entry[low]) else ""
            cells.append(f'<td class="{kind}">{entry[part]:.3f}{interval}</td>')
        rows.append(f"<tr><td>{escape(titles[method])}</td>{''.join(cells)}</tr>")
    return f'<h3>{caption}</h3><div class="wide"><table>{"".join(rows)}</table></div>'


def _images_of(plots: Mapping[str, bytes]) -> str:
    """Plots that follow the reader's choice of light or dark."""
    shown = []
    for what in SHOWN:
        if f"{what}-light.svg" not in plots:
            continue
        light, dark = (data_uri(plots[f"{what}-{theme}.svg"], "svg+xml") for theme in ("light", "dark"))
        shown.append(
            f'<h3>{HEADINGS[what]}</h3><p class="plot"><image>'
            f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">'
            f'<img src="{light}" alt="{what} by method"></image></p>'
        )
    return "".join(shown)


def _reduced(image: Image.Image, side: int) -> str:
    """An image as a data URI: whole and exact where it is small, else reduced."""
    if max(image.size) <= side // 2:
        return png_uri(image)
    copy = image.copy()
    copy.thumbnail((side, side))
    return webp_uri(copy)


def _plain(value: Any) -> Any:
    """A number as JSON has it."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value
