"""The contact sheet: rows as in the paper's Figures 12 and 13, a few steps from left to right."""

from __future__ import annotations

from collections.abc import Collection

from PIL import Image

from concept_conductor.io.drawing import image_table
from concept_conductor.tracing import drawing
from concept_conductor.tracing.views import StepView

STEPS = 8
CELL = 128
LEFT = 210


def evenly(steps: Collection[int], count: int) -> frozenset[int]:
    """Choose at most ``count`` of the steps, the first and last among them."""
    ordered = sorted(steps)
    count = min(count, len(ordered))
    return frozenset(ordered[round(i * (len(ordered) - 1) / max(1, count - 1))] for i in range(count))


class Sheet:
    """Collects the cells of a few steps, small.

    Args:
        observed: the steps that there will be views of.
    """

    def __init__(self, observed: Collection[int]) -> None:
        self.shown = evenly(observed, STEPS)
        self.columns: list[str] = []
        self.cells: list[dict[str, Image.Image]] = []

    def add(self, view: StepView) -> None:
        """Take in a step, if it is one of those shown."""
        if view.index not in self.shown:
            return
        self.columns.append(f"step {view.index}")
        cells = {}
        for row in view.rows:
            name = row.path.name
            cells[name] = row.clean
            cells[f"{name}\nclusters"] = drawing.clusters_large(row)
            if row.path.foreground:
                cells[f"{name}\n{row.path.foreground}"] = drawing.heat_large(row, -1)
        if len(view.masks):
            cells["base path\nmasks"] = drawing.masks_large(view.paths[0], view.masks)
        self.cells.append({caption: fitted(image) for caption, image in cells.items()})

    def image(self) -> Image.Image:
        """Draw the sheet."""
        captions = dict.fromkeys(caption for cells in self.cells for caption in cells)
        rows = [(caption, [cells.get(caption) for cells in self.cells]) for caption in captions]
        return image_table(rows, CELL, self.columns, left=LEFT)


def fitted(image: Image.Image) -> Image.Image:
    """Copy an image to fit a cell."""
    copy = image.copy()
    copy.thumbnail((CELL, CELL))
    return copy
