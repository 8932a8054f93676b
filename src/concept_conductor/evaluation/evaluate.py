"""The second pass: images of a results folder scored, summarised and written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.evaluation.benchmark.mini_images import references_of
from concept_conductor.evaluation.benchmark.results import PAGE, PLOTS, SUMMARIES, ResultsFolder, check_sizes
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import ConceptReference, Item
from concept_conductor.evaluation.metrics.places import Region
from concept_conductor.evaluation.metrics.registry import default_metrics, find_metrics
from concept_conductor.evaluation.metrics.scoring import check_items, score_images
from concept_conductor.evaluation.report.page import write_page
from concept_conductor.evaluation.report.plots import PLOT_FILES, draw
from concept_conductor.evaluation.report.table import frame, summary, write_results, write_summary
from concept_conductor.io.files import atomic_write, check_output
from concept_conductor.io.images import load_image
from concept_conductor.recipes.files import locate_model

if TYPE_CHECKING:
    import pandas as pd

ANY_SIZE = (512, 512)
"""Stands for that of an image which is not made yet."""


@dataclass(frozen=True)
class Evaluation:
    """A benchmark with the folder that its images are in, or will be.

    Attributes:
        benchmark: or a subset of one.
        folder: of the results.
        jobs: one for each image.
    """

    benchmark: Benchmark
    folder: ResultsFolder
    jobs: Sequence[Job]

    @cached_property
    def instruments(self) -> Instruments:
        """The models to measure with, which are loaded when they are needed."""
        return Instruments.for_model(locate_model(self.benchmark.model, self.benchmark.folder))

    def items(self) -> list[Item]:
        """Return what is scored, in the jobs' order.

        Raises:
            ConductorError: a concept's class words or references do not do.
        """
        return [self._item(job, load_image(self.folder.image(job.key)).size) for job in self.jobs]

    def check(self, metrics: Sequence[str] | None) -> None:
        """Look whether the images will be scored and the results written, before any is made.

        Raises:
            ConductorError: a metric does not know a concept, a package or a model to measure with is missing, or
                something is in the way of a file.
        """
        check_packages()
        for name in (*SUMMARIES, PAGE, *(f"{PLOTS}/{plot}" for plot in PLOT_FILES)):
            check_output(self.folder.path / name)
        scenes = {(job.group.scene.combination, job.group.scene.prompt): job for job in self.jobs}
        items = [self._item(job, ANY_SIZE) for job in scenes.values()]
        wanted = find_metrics(self._metrics(metrics))
        check_items(items, wanted, self.instruments)
        if self.folder.missing(self.jobs):  # else all numbers may be known
            for name in dict.fromkeys(name for metric in wanted for name in metric.instruments):
                self.instruments.check(name)

    def score(self, metrics: Sequence[str] | None, progress: Callable[[int, int], None] | None = None) -> pd.DataFrame:
        """Measure every image; numbers that are known already are taken from the folder's cache.

        Args:
            metrics: names; None for the benchmark's, else those that suit its model.
            progress: told how many of how many are scored.

        Returns:
            See :func:`~concept_conductor.evaluation.report.table.frame`.
        """
        check_packages()
        check_sizes(self.folder, self.jobs)
        scores = score_images(self.items(), self._metrics(metrics), self.instruments, self.folder.scores, progress)
        return frame(self._row(job, row) for job, row in zip(self.jobs, scores, strict=True))

    def _metrics(self, asked: Sequence[str] | None) -> list[str]:
        return list(asked or self.benchmark.metrics or default_metrics(self.instruments))

    @cached_property
    def _references(self) -> dict[str, ConceptReference]:
        names = dict.fromkeys(name for job in self.jobs for name in job.group.scene.concepts)
        return {
            name: ConceptReference(
                name,
                self.benchmark.concepts[name].class_words,
                references_of(self.benchmark, name, self.folder.references),
            )
            for name in names
        }

    def _item(self, job: Job, size: tuple[int, int]) -> Item:
        scene = job.group.scene
        concepts = tuple(self._references[name] for name in scene.concepts)
        return Item(self.folder.image(job.key), scene.text, concepts, places_of(job, size))

    def write(self, results: pd.DataFrame) -> list[Path]:
        """Write tables, plots and the page; return what was written, the page last."""
        path, titles = self.folder.path, {job.group.method.name: job.group.method.title for job in self.jobs}
        table = summary(results)
        write_results(results, path)
        write_summary(table, titles, path)
        plots = draw(table, titles)
        for name, content in plots.items():
            with atomic_write(path / PLOTS / name) as file:
                file.write(content)
        page = write_page(self.benchmark, self.folder, self.jobs, results, table, plots)
        return [*(path / name for name in SUMMARIES), *(path / PLOTS / name for name in plots), page]

    def _row(self, job: Job, scores: dict[str, Any]) -> dict[str, Any]:
        record = self.folder.record(job.key)
        if record is None:
            raise ConductorError(f"the image of the job '{job.title}' is gone; run again to make it")
        about = record.model_dump(include={"key", "method", "combination", "prompt", "text", "seed"})
        about["image"] = self.folder.image(job.key).relative_to(self.folder.path).as_posix()
        costs = record.model_dump(include={"seconds", "peak_memory_bytes"})
        return {**about, **costs, **{name: value for name, value in scores.items() if name != "image"}}


def check_packages() -> None:
    """Look whether what tables, plots and matching need is installed.

    Raises:
        ConductorError: it is not.
    """
    for name in ("pandas", "pyarrow", "matplotlib", "scipy"):
        if find_spec(name) is None:
            raise ConductorError(
                f"scoring needs {name}, which is not installed; pip install 'concept-conductor[evaluate]'"
            )


def places_of(job: Job, size: tuple[int, int]) -> tuple[Region, ...]:
    """Return where the job's layout wants its concepts; empty where neither masks nor boxes say so.

    Args:
        job: of any method.
        size: width and height of its image.
    """
    layout, paths = job.group.recipe.layout, job.group.paths
    if layout is None:
        return ()
    if layout.boxes is not None:
        image = paths.get(("layout", "image"))
        width, height = load_image(image).size if image is not None else layout.size or size
        return tuple(
            (left / width, top / height, right / width, bottom / height) for left, top, right, bottom in layout.boxes
        )
    return tuple(paths["layout", "masks", number] for number in range(len(layout.masks or ())))
