"""From scored images to numbers that can be compared: means, bootstrap intervals, paired differences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics import segsim
from concept_conductor.io.files import atomic_write
from concept_conductor.io.printable import one_line

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 10_000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 0
REFERENCE = "full"
"""The method that the others are compared with."""

AREAS = tuple(f"_{name}" for name in segsim.AREAS)
"""Endings of the columns that split a metric by subject area."""
LOWER_IS_BETTER = (
    "omission", "redundancy", "leakage", "design_omitted", "design_leaked", "arrangement_others", "arrangement_empty",
)  # fmt: skip
SHARES = (*LOWER_IS_BETTER, "design", "arrangement")
"""Beginnings of the names of metrics that are shares of images or concepts, 0..1."""
#: Columns of the results that are no metrics.
ABOUT = ("key", "method", "combination", "prompt", "text", "seed", "image", "seconds", "peak_memory_bytes")


class Estimate(NamedTuple):
    """A mean with its bootstrap interval, which one prompt does not have; NaN where there is nothing to average."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, means: Sequence[float]) -> Estimate:
        """Return the mean of the prompts' means, resampled over prompts."""
        values = np.asarray(means, dtype=np.float64)
        if not len(values):
            return cls(np.nan, np.nan, np.nan)
        low, high = bootstrap(values) if len(values) > 1 else (np.nan, np.nan)
        return cls(float(values.mean()), low, high)


def bootstrap(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of ``values`` ``(n,)``; the same for the same values."""
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    means = np.empty(RESAMPLES)
    for start in range(0, RESAMPLES, 1000):  # in parts, so that many prompts take little memory
        chosen = generator.integers(0, len(values), (min(1000, RESAMPLES - start), len(values)))
        means[start : start + len(chosen)] = values[chosen].mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def import_pandas() -> Any:
    """Import pandas, with what it needs to write parquet.

    Raises:
        ConductorError: the extra is not installed.
    """
    try:
        import pandas
        import pyarrow  # noqa: F401 - writes parquet
    except ImportError as error:
        raise ConductorError(
            f"tables of results need {error.name}; pip install 'concept-conductor[evaluate]'"
        ) from error
    return pandas


def frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return a row for each image: what it is (:data:`ABOUT`), then the metrics' columns."""
    pandas = import_pandas()
    return pandas.DataFrame(list(rows))


def metric_columns(results: pd.DataFrame) -> list[str]:
    """Return the columns with numbers to average."""
    return [
        name
        for name in results.columns
        if name not in ABOUT and results[name].dtype.kind in "fiub" and results[name].notna().any()
    ]


def summary(results: pd.DataFrame, reference: str = REFERENCE) -> pd.DataFrame:
    """Return for each method and metric the mean, its interval over prompts, and the difference to ``reference``.

    A prompt is one combination with one prompt; its value is the mean over seeds. Differences are taken over the
    images that both methods made and scored.

    Returns:
        Columns method, metric, images, prompts, mean, low, high, difference, difference_low, difference_high.
    """
    unit, pandas = ["combination", "prompt"], import_pandas()
    rows = []
    for metric in metric_columns(results):
        scored = results[results[metric].notna()].assign(**{metric: lambda part, m=metric: part[m].astype(float)})
        base = scored[scored["method"] == reference].set_index([*unit, "seed"])[metric]
        for method in dict.fromkeys(results["method"]):
            own = scored[scored["method"] == method]
            estimate = Estimate.of(own.groupby(unit)[metric].mean().tolist())
            difference = Estimate.of([])
            if method != reference:
                gaps = (own.set_index([*unit, "seed"])[metric] - base).dropna()
                difference = Estimate.of(gaps.groupby(level=unit).mean().tolist())
            rows.append(
                {
                    "method": method,
                    "metric": metric,
                    "images": len(own),
                    "prompts": own.groupby(unit).ngroups,
                    **estimate._asdict(),
                    **{f"difference{end}": v for end, v in zip(("", "_low", "_high"), difference)},
                }
            )
    return pandas.DataFrame(rows)


def write_results(results: pd.DataFrame, folder: Path) -> None:
    """Write ``results.parquet``."""
    with atomic_write(folder / "results.parquet") as file:
        results.to_parquet(file, index=False)


def write_summary(table: pd.DataFrame, titles: Mapping[str, str], folder: Path) -> None:
    """Write ``summary.csv``, ``summary.md`` and ``summary.tex``.

    Args:
        table: from :func:`summary`.
        titles: method -> what tables call it.
        folder: where to.
    """
    numbers = table.assign(method=table["method"].map(no_formula)).to_csv(index=False)
    texts = {"csv": numbers, "md": markdown(table, titles), "tex": latex(table, titles)}
    for ending, text in texts.items():
        with atomic_write(folder / f"summary.{ending}") as file:
            file.write(text.encode())


def markdown(table: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Return means with intervals, differences to the full method, and means by subject area as Markdown."""
    parts = [_note(table)]
    for heading, part in _parts(table):
        cells = _cells(part, titles)
        lines = [list(cells.columns), *cells.to_numpy().tolist()]
        head, *rows = ("| " + " | ".join(map(in_markdown, line)) + " |" for line in lines)
        parts += [f"{heading}\n", head, "| --- |" + " ---: |" * (cells.shape[1] - 1), *rows, ""]
    return "\n".join(parts)


def latex(table: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Return the same as LaTeX (booktabs)."""
    parts = [f"% {_note(table).strip()}"]
    for heading, part in _parts(table):
        cells = _cells(part, titles)
        style = cells.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
        parts += [f"% {heading}", style.to_latex(hrules=True, column_format="l" + "r" * (cells.shape[1] - 1))]
    return "\n".join(parts).replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")


def in_markdown(text: str) -> str:
    """Return one line of Markdown that reads as ``text``, in a table's cell too."""
    return re.sub(r"[\\|*`<]|(?<!\w)_|_(?!\w)|](?=\()", r"\\\g<0>", one_line(text))


def no_formula(text: str) -> str:
    """Return ``text`` so that a spreadsheet which opens it from a CSV file computes nothing."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def shown_estimate(mean: float, low: float, high: float) -> str:
    """Return ``0.867 [0.851, 0.880]``, the mean alone where it has no interval, or a dash."""
    if not np.isfinite(mean):
        return "–"
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if np.isfinite(low) else f"{mean:.3f}"


def arrowed(metric: str) -> str:
    """Return a metric's name with the direction in which it is better."""
    return f"{metric} {'↓' if metric.startswith(LOWER_IS_BETTER) else '↑'}"


def _parts(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    means = table[["method", "metric", "mean", "low", "high"]]
    by_area = means["metric"].str.endswith(AREAS)
    found = [("Means with 95% bootstrap intervals over prompts.", means[~by_area])]
    if table["difference"].notna().any():
        gaps = table[["method", "metric", "difference", "difference_low", "difference_high"]]
        gaps = gaps[gaps["difference"].notna() & ~by_area].set_axis(means.columns, axis=1)
        found.append(("Paired differences to the full method, with 95% bootstrap intervals over prompts.", gaps))
    if by_area.any():
        found.append(("By subject area.", means[by_area]))
    return found


def _cells(part: pd.DataFrame, titles: Mapping[str, str]) -> pd.DataFrame:
    """Return a row of texts for each method: its title, and its estimate of each metric."""
    metrics, rows = list(dict.fromkeys(part["metric"])), []
    for method, own in part.groupby("method", sort=False):
        known = {row["metric"]: shown_estimate(row["mean"], row["low"], row["high"]) for _, row in own.iterrows()}
        title = one_line(titles.get(str(method), str(method)))
        rows.append([title, *(known.get(name, "–") for name in metrics)])
    return import_pandas().DataFrame(rows, columns=["method", *map(arrowed, metrics)])


def _note(table: pd.DataFrame) -> str:
    images, prompts = int(table["images"].max()), int(table["prompts"].max())
    return f"Up to {images} images of {prompts} prompts per method; - where there is nothing to measure.\n"
