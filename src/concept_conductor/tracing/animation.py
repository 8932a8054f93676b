"""The run as an animated GIF: every path's clean image, clusters, heat and masks."""

from __future__ import annotations

import io
from collections.abc import Collection

from PIL import Image

from concept_conductor.io.drawing import image_table
from concept_conductor.tracing import drawing
from concept_conductor.tracing.sheet import evenly
from concept_conductor.tracing.views import PathView, StepView

FRAMES = 60
FRAME_MILLISECONDS = 120
LAST_MILLISECONDS = 2500
CELL, SMALL_CELL, MANY = 144, 96, 5
COLUMNS = ("predicted image", "clusters", "foreground words", "masks")


class Animation:
    """Keeps the frames, small and with palettes: sixty take about 20 MB.

    Args:
        observed: the steps that there will be views of.
    """

    def __init__(self, observed: Collection[int]) -> None:
        self.shown = evenly(observed, FRAMES)
        self.frames: list[Image.Image] = []

    def add(self, view: StepView, steps: int) -> None:
        """Take in a step, if it is one of those shown."""
        if view.index not in self.shown:
            return
        rows = {row.path.name: [*cells(row), None] for row in view.rows}
        for number, row in enumerate(view.paths if len(view.masks) else ()):
            masks = (
                drawing.own_mask_large(row, view.masks, number - 1) if number else drawing.masks_large(row, view.masks)
            )
            rows[row.path.name][-1] = masks
        title = f"step {view.index} of {steps}"
        cell = CELL if len(rows) <= MANY else SMALL_CELL
        frame = image_table(list(rows.items()), cell, COLUMNS, title)
        self.frames.append(frame.quantize(240, dither=Image.Dither.NONE))

    def content(self) -> bytes:
        """Return the animation as the bytes of a GIF."""
        durations = [FRAME_MILLISECONDS] * (len(self.frames) - 1) + [LAST_MILLISECONDS]
        first, *others = self.frames
        buffer = io.BytesIO()  # Pillow would not say that the disk is full
        first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
        return buffer.getvalue()


def cells(row: PathView) -> list[Image.Image | None]:
    """Return image, clusters and, where there are foreground words, their heat."""
    heat = drawing.heat_large(row, -1) if row.path.foreground else None
    return [row.clean, drawing.clusters_large(row), heat]
