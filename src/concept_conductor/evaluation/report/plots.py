"""Plots of a summary: a panel for each metric, a dot with its interval for each method; light and dark."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.report.table import AREAS, REFERENCE, SHARES, arrowed
from concept_conductor.io.printable import one_line

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = 3
PANEL = (3.6, 0.42)
"""Inches: width of a panel, height of a method in it."""
LEAST_SPAN = 0.2
"""An axis shows at least so much, so that small differences look small."""
HEAD = 0.75
"""Inches above and below the methods of a panel."""


class Theme(NamedTuple):
    """Colours of a plot; text and marks keep a contrast of at least 4.5 to the paper."""

    paper: str
    ink: str
    faint: str
    mark: str
    reference: str


THEMES = {
    "light": Theme("#ffffff", "#1d2430", "#c9d0da", "#3b6fb6", "#b3541e"),
    "dark": Theme("#12161d", "#e8ecf2", "#3a4352", "#7fb0f0", "#f0a060"),
}
SHOWN = ("means", "differences")
PLOT_FILES = [f"{what}-{theme}.{ending}" for what in SHOWN for theme in THEMES for ending in ("svg", "png")]
STYLE = {
    "svg.hashsalt": "conductor",  # with no date in it, the same plot gives the same file
    "svg.fonttype": "none",
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a title is one
    "text.usetex": False,
}


def draw(table: pd.DataFrame, titles: Mapping[str, str]) -> dict[str, bytes]:
    """Return ``means-light.svg``, ``differences-dark.png`` and so on -> contents; no differences where there are none.

    Args:
        table: from :func:`~concept_conductor.evaluation.report.table.summary`.
        titles: method -> what plots call it.

    Raises:
        ConductorError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ConductorError(
            "plots need matplotlib, which is not installed; pip install 'concept-conductor[evaluate]'"
        ) from error
    drawn, shown = {}, {method: one_line(title) for method, title in titles.items()}
    columns = {"means": ("mean", "low", "high"), "differences": ("difference", "difference_low", "difference_high")}
    for what in SHOWN:
        part = table[table[columns[what][0]].notna() & ~table["metric"].str.endswith(AREAS)]
        if part.empty:
            continue
        for name, theme in THEMES.items():
            for ending in ("svg", "png"):
                with matplotlib.rc_context(STYLE), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", "Glyph")  # a title in letters that the font lacks
                    figure = _figure(part, shown, columns[what], theme, zero=what == "differences")
                    buffer = io.BytesIO()
                    metadata = {"Date": None} if ending == "svg" else None
                    figure.savefig(buffer, format=ending, dpi=144, facecolor=theme.paper, metadata=metadata)
                drawn[f"{what}-{name}.{ending}"] = buffer.getvalue()
    return drawn


def _figure(
    part: pd.DataFrame, titles: Mapping[str, str], columns: tuple[str, str, str], theme: Theme, *, zero: bool
) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    metrics, methods = list(dict.fromkeys(part["metric"])), list(dict.fromkeys(part["method"]))
    across = min(COLUMNS, len(metrics))
    down = -(-len(metrics) // across)
    longest = max(len(titles.get(method, method)) for method in methods)
    size = (PANEL[0] * across + 0.07 * longest, (PANEL[1] * len(methods) + HEAD) * down)
    figure = Figure(
        figsize=size,
        layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08, hspace=0.08, wspace=0.04),
        facecolor=theme.paper,
    )
    panels = figure.subplots(down, across, squeeze=False, sharey=True)
    for number, panel in enumerate(panels.flat):
        if number >= len(metrics):
            panel.set_visible(False)
            continue
        rows = part[part["metric"] == metrics[number]].set_index("method")
        _draw_panel(panel, rows, methods, columns, theme)
        panel.set_xlim(*_limits(rows[list(columns)].to_numpy(np.float64), metrics[number].startswith(SHARES), zero))
        panel.set_title(arrowed(metrics[number]), color=theme.ink, loc="left", fontsize=10)
        panel.set_yticks(range(len(methods)), [titles.get(method, method) for method in methods])
        if number == 0:
            panel.invert_yaxis()  # shared by all
        if zero:
            panel.axvline(0, color=theme.ink, linewidth=0.8)
    return figure


def _draw_panel(
    panel: Any, rows: pd.DataFrame, methods: list[str], columns: tuple[str, str, str], theme: Theme
) -> None:
    panel.set_facecolor(theme.paper)
    panel.tick_params(colors=theme.ink, length=0)
    panel.grid(axis="x", color=theme.faint, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.locator_params(axis="x", nbins=5)
    panel.set_ylim(len(methods) - 0.5, -0.5)
    for spine in panel.spines.values():
        spine.set_visible(False)
    for position, method in enumerate(methods):
        if method not in rows.index:
            continue
        middle, low, high = (float(rows.at[method, name]) for name in columns)
        colour = theme.reference if method == REFERENCE else theme.mark
        panel.plot([low, high], [position, position], color=colour, linewidth=2, solid_capstyle="round")
        panel.plot([middle], [position], "o", color=colour, markersize=6)


def _limits(values: NDArray[np.float64], share: bool, zero: bool) -> tuple[float, float]:
    """Return what an axis shows: all of 0..1 for shares, as much on both sides of 0 for differences."""
    if share and not zero:
        return -0.04, 1.04
    least, most = float(np.nanmin(values)), float(np.nanmax(values))  # the means alone where there are no intervals
    if zero:
        least, most = -max(abs(least), abs(most)), max(abs(least), abs(most))
    margin = max(0.08 * (most - least), (LEAST_SPAN - (most - least)) / 2)
    return least - margin, most + margin
