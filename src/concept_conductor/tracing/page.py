"""The page to scrub through a run: one file that needs no other, written step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from concept_conductor.io.html import embedded_json, mask_uri, png_uri, render, webp_uri
from concept_conductor.settings import SamplingSettings
from concept_conductor.tracing import drawing
from concept_conductor.tracing.traced_paths import TracedPath
from concept_conductor.tracing.views import PathView, StepView

TEMPLATE = Path(__file__).parent / "page.html"
STEPS_HERE = "<!-- steps -->\n"
SIDE = 192
"""Longest side of an image in the page."""


class Page:
    """Writes the page's head at once, a step as it comes, and the rest in the end.

    Args:
        file: where to.
        reference: the layout reference, if the run has one.
        paths: all paths, the base path first.
        settings: of the run, filled.
    """

    def __init__(
        self, file: Path, reference: TracedPath | None, paths: Sequence[TracedPath], settings: SamplingSettings
    ) -> None:
        head, self.rest = TEMPLATE.read_text(encoding="utf-8").split(STEPS_HERE)
        self.file = file
        run = {
            "steps": settings.steps,
            "reference": None if reference is None else path_data(reference),
            "paths": [path_data(path) for path in paths],
            "lines": drawing.line_colours(len(paths) - 1),
            "heat": ["#" + bytes(colour.tolist()).hex() for colour in drawing.heat_palette()],
        }
        self._write(render(head, prompt=paths[0].prompt, run=embedded_json(run)), "w")

    def add(self, view: StepView) -> None:
        """Write what a step showed."""
        data: dict[str, Any] = {
            "reference": None if view.reference is None else row_data(view.reference),
            "paths": [row_data(row) for row in view.paths],
            "masks": [mask_uri(mask) for mask in view.masks],
        }
        if view.refined is not None:
            data["base"] = [mask_uri(mask) for mask in view.refined.base]
            data["own"] = [mask_uri(mask) for mask in view.refined.own]
        self._write(f'<script type="application/json" data-step="{view.index}">{embedded_json(data)}</script>\n', "a")

    def finish(self, records: Sequence[dict[str, Any]]) -> None:
        """Write the rest.

        Args:
            records: of all steps, with their timesteps and layout losses.
        """
        self._write(render(self.rest, records=embedded_json(records)), "a")

    def _write(self, text: str, mode: str) -> None:
        with open(self.file, mode, encoding="utf-8") as file:
            file.write(text)


def path_data(path: TracedPath) -> dict[str, Any]:
    """Return what the page says of a path."""
    foreground = [word.foreground for word in path.words] + [True]
    return {
        "name": path.name,
        "prompt": path.prompt,
        "colour": path.colour,
        "captions": path.captions,
        "foreground": foreground[: len(path.captions)],
        "mean": bool(path.foreground),
    }


def row_data(view: PathView) -> dict[str, Any]:
    """Return what one path showed; heat maps side by side in one grey image, which the page colours."""
    tops = view.heat.max(axis=(1, 2), keepdims=True, initial=0)
    grey = (view.heat / np.where(tops > 0, tops, 1) * 255).round().astype(np.uint8)
    clean = view.clean.copy()
    clean.thumbnail((SIDE, SIDE))
    return {
        "clean": webp_uri(clean),
        "clusters": png_uri(drawing.cluster_image(view.clusters)),
        "heat": png_uri(Image.fromarray(np.concatenate(grey, axis=1))) if len(grey) else None,
        "tops": [float(f"{top:.3g}") for top in tops.ravel()],
    }
