"""Writes what a run's steps show, one step at a time, so that no run is too long for the memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from concept_conductor.backbones.base import Backbone
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.denoiser.layers import cross_attention
from concept_conductor.errors import NonFiniteError
from concept_conductor.io.drawing import contact_sheet, image_table, scaled
from concept_conductor.io.images import png_info
from concept_conductor.layouts.layout import Layout
from concept_conductor.method.sampling import Step
from concept_conductor.settings import SamplingSettings
from concept_conductor.tracing import drawing
from concept_conductor.tracing.animation import Animation
from concept_conductor.tracing.folder import RECORD, trace_folder
from concept_conductor.tracing.page import Page
from concept_conductor.tracing.sheet import Sheet
from concept_conductor.tracing.trace import Trace
from concept_conductor.tracing.traced_paths import TracedPath, traced_paths_of
from concept_conductor.tracing.views import PathView, StepView, Viewer

VERSION = 1
WORD_SIDE = 128
"""Of a word's heat map on the sheet of all."""


@dataclass
class Tracer:
    """A trace in the making; see :func:`tracing`.

    Attributes:
        observed: the steps that it wants to look into.
        steps: of the run.
        folder: where its files are written, until it is finished.
    """

    observed: frozenset[int]
    steps: int
    folder: Path
    viewer: Viewer
    page: Page
    sheet: Sheet
    animation: Animation
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Write what ``step`` showed."""
        losses = None if step.layout_loss is None else [finite(loss) for loss in step.layout_loss.tolist()]
        self.records.append(
            {
                "index": step.index,
                "timestep": step.timestep,
                "refined": step.refined,
                "layout_loss": losses,
            }
        )
        if step.snapshot is None:
            return
        view = self.viewer.view(step)
        for row in view.rows:
            self._write_path(row, step.index)
        if view.refined is not None:
            self._write_masks(view)
        self.page.add(view)
        self.sheet.add(view)
        self.animation.add(view, self.steps)

    def finish(self) -> None:
        """Write what needs all steps."""
        losses = [record["layout_loss"] for record in self.records]
        if any(loss is not None for loss in losses):
            names = [path.name for path in self.viewer.paths]
            self._save(loss_chart(names, losses), "layout-loss.png")
        self._save(self.sheet.image(), "contact-sheet.png")
        (self.folder / "run.gif").write_bytes(self.animation.content())
        self.page.finish(self.records)
        everyone = [path for path in (self.viewer.reference, *self.viewer.paths) if path is not None]
        record = {
            "concept_conductor_trace": VERSION,
            "paths": [described(path) for path in everyone],
            "steps": self.records,
        }
        text = json.dumps(record, ensure_ascii=False) + "\n"
        (self.folder / RECORD).write_bytes(text.encode(errors="backslashreplace"))

    def _write_path(self, view: PathView, index: int) -> None:
        """Write the clean image, the clusters, and all heat maps on one sheet."""
        stem = f"{view.path.folder}/step-{index:03d}"
        self._save(view.clean, f"{stem}-clean.png")
        self._save(drawing.clusters_large(view), f"{stem}-clusters.png")
        if len(view.heat):
            self._save(heat_sheet(view), f"{stem}-words.png")

    def _write_masks(self, view: StepView) -> None:
        """Write one image for each concept: its mask in the base path, in its own, and fused."""
        assert view.refined is not None
        base = view.paths[0]
        for number, own in enumerate(view.paths[1:]):
            panels = {
                "base path (B)": drawing.own_mask_large(base, view.refined.base, number),
                "own path (C)": drawing.own_mask_large(own, view.refined.own, number),
                "fused (M)": drawing.own_mask_large(base, view.refined.fused, number),
            }
            image = image_table([(own.path.name, [*panels.values()])], max(base.clean.size), [*panels])
            self._save(image, f"masks/step-{view.index:03d}-{own.path.folder}.png")

    def _save(self, image: Image.Image, name: str) -> None:
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file, pnginfo=png_info({}))


@contextmanager
def tracing(
    trace: Trace,
    backbone: Backbone,
    settings: SamplingSettings,
    prompt: str,
    concepts: Sequence[ConceptPrompt],
    layout: Layout | None,
) -> Iterator[Tracer]:
    """Write a trace of the run that the block makes; nothing is left of it if the block fails.

    A run whose numbers overflow is what one wants to look into: its trace, up to that step, is kept.

    Args:
        trace: what is asked for.
        backbone, settings, prompt, concepts, layout: the run's.

    Raises:
        ConductorError: the folder cannot be used, or the model has no such word layer.
    """
    cross_attention(backbone.unet, backbone.word_layer, "word layer")
    observed = trace.observed(settings)
    reference, paths = traced_paths_of(trace, backbone, prompt, concepts, layout)
    with trace_folder(Path(trace.folder)) as folder:
        tracer = Tracer(
            observed,
            settings.steps,
            folder,
            Viewer(backbone, reference, paths, trace.cluster_count(len(concepts))),
            Page(folder / "index.html", reference, paths, settings),
            Sheet(observed),
            Animation(observed),
        )
        overflow = None
        try:
            yield tracer
        except NonFiniteError as error:
            overflow = error
        tracer.finish()
    if overflow is not None:
        raise overflow


def heat_sheet(view: PathView) -> Image.Image:
    """Return all heat maps of a path, each with its word above."""
    captions = view.path.captions
    maps = [scaled(drawing.heat_large(view, index), WORD_SIDE) for index in range(len(captions))]
    return contact_sheet(maps, captions=captions)


def loss_chart(names: Sequence[str], losses: Sequence[Sequence[float | None] | None]) -> Image.Image:
    """Draw every path's layout loss over the steps."""
    series = {name: [None if loss is None else loss[number] for loss in losses] for number, name in enumerate(names)}
    return drawing.chart(series, drawing.line_colours(len(names) - 1), "Layout loss of every path, before each step")


def finite(loss: float) -> float | None:
    """Return the number in six digits; None where a run that went astray gave none."""
    return float(f"{loss:.6g}") if math.isfinite(loss) else None


def described(path: TracedPath) -> dict[str, Any]:
    """Return a path as the record has it."""
    words = [
        {"text": word.text, "positions": list(word.positions), "foreground": word.foreground} for word in path.words
    ]
    return {"name": path.name, "folder": path.folder, "prompt": path.prompt, "words": words}
