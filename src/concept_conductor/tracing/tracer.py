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
from concept_conductor.io.drawing import contact_sheet
from concept_conductor.io.files import full_disk_told
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
    """

    observed: frozenset[int]
    steps: int
    folder: Path
    path: Path
    viewer: Viewer
    page: Page
    sheet: Sheet
    animation: Animation
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, step: Step) -> None:
        """Write what ``step`` showed."""
        with full_disk_told(self.folder):
            self._add(step)

    def _add(self, step: Step) -> None:
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
        with full_disk_told(self.folder):
            losses = [record["layout_loss"] for record in self.records]
            names = [subject.name for subject in self.viewer.paths]
            if any(loss is not None for loss in losses):
                self._save(loss_chart(names, losses), "layout-loss.png")
            self._save(self.sheet.image(), "contact-sheet.png")
            self.animation.save(self.path / "run.gif")
            self.page.finish(self.records)
            everyone = [s for s in (self.viewer.reference, *self.viewer.paths) if s is not None]
            record = {
                "concept_conductor_trace": VERSION,
                "paths": [described(subject) for subject in everyone],
                "steps": self.records,
            }
            (self.path / RECORD).write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")

    def _write_path(self, view: PathView, index: int) -> None:
        """The clean image, the clusters, and all heat maps on one sheet."""
        stem = f"{view.subject.folder}/step-{index:03d}"
        self._save(view.clean, f"{stem}-clean.png")
        self._save(drawing.clusters_large(view), f"{stem}-clusters.png")
        if len(view.heat):
            self._save(heat_sheet(view), f"{stem}-words.png")

    def _write_masks(self, view: StepView) -> None:
        """One image for each concept: its mask in the base path, in its own, and fused."""
        assert view.refined is not None
        base = view.paths[0]
        for number, own in enumerate(view.paths[1:]):
            panels = {
                "base path (B)": drawing.own_mask_large(base, view.refined.base, number),
                "own path (C)": drawing.own_mask_large(own, view.refined.own, number),
                "fused (M)": drawing.own_mask_large(base, view.refined.fused, number),
            }
            image = drawing.grid({own.subject.name: [*panels.values()]}, max(base.clean.size), [*panels])
            self._save(image, f"masks/step-{view.index:03d}-{own.subject.folder}.png")

    def _save(self, image: Image.Image, name: str) -> None:
        file = self.path / name
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

    Args:
        trace: what is asked for.
        backbone, settings, prompt, concepts, layout: the run's.

    Raises:
        ConductorError: the folder cannot be used, or the model has no such word layer.
    """
    cross_attention(backbone.unet, backbone.word_layer, "word layer")
    folder, observed = Path(trace.folder), trace.observed(settings)
    reference, paths = traced_paths_of(trace, backbone, prompt, concepts, layout)
    with trace_folder(folder) as path:
        tracer = Tracer(
            observed,
            settings.steps,
            folder,
            path,
            Viewer(backbone, reference, paths, trace.cluster_count(len(concepts))),
            Page(path / "index.html", reference, paths, settings),
            Sheet(observed),
            Animation(observed),
        )
        yield tracer
        tracer.finish()


def heat_sheet(view: PathView) -> Image.Image:
    """All heat maps of a path, each with its word above."""
    captions = view.subject.captions
    cells = [
        drawing.grid({caption: [drawing.heat_large(view, index)]}, WORD_SIDE) for index, caption in enumerate(captions)
    ]
    return contact_sheet(cells, gap=0)


def loss_chart(names: Sequence[str], losses: Sequence[Sequence[float | None] | None]) -> Image.Image:
    """Every path's layout loss over the steps."""
    series = {name: [None if loss is None else loss[number] for loss in losses] for number, name in enumerate(names)}
    return drawing.chart(series, drawing.line_colours(len(names) - 1), "Layout loss of every path, before each step")


def finite(loss: float) -> float | None:
    """The number in six digits; None where a run that went astray gave none."""
    return float(f"{loss:.6g}") if math.isfinite(loss) else None


def described(subject: TracedPath) -> dict[str, Any]:
    """A path as the record has it."""
    words = [
        {"text": word.text, "positions": list(word.positions), "foreground": word.foreground} for word in subject.words
    ]
    return {"name": subject.name, "folder": subject.folder, "prompt": subject.prompt, "words": words}
