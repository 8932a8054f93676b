"""The second pass: images of a results folder scored, summarised and written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.evaluation.benchmark.mini_images import references_of
from concept_conductor.evaluation.benchmark.results import ResultsFolder, check_sizes
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import ConceptReference, Item
from concept_conductor.evaluation.metrics.places import Region
from concept_conductor.evaluation.metrics.registry import default_metrics
from concept_conductor.evaluation.metrics.scoring import score_images
from concept_conductor.evaluation.report.page import write_page
from concept_conductor.evaluation.report.plots import draw
from concept_conductor.evaluation.report.table import frame, import_pandas, summary, write_results, write_summary
from concept_conductor.io.files import atomic_write
from concept_conductor.io.images import load_image
from concept_conductor.recipes.files import locate_model

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Evaluation:
    """A benchmark whose images are made, and the folder they are in.

    Attributes:
        benchmark: or a subset of one.
        folder: of the results.
        jobs: all finished.
    """

    benchmark: Benchmark
    folder: ResultsFolder
    jobs: Sequence[Job]

    def items(self) -> list[Item]:
        """What is scored, in the jobs' order.

        Raises:
            ConductorError: a concept's class words or references do not do.
        """
        names = dict.fromkeys(name for job in self.jobs for name in job.group.scene.concepts)
        subjects = {
            name: ConceptReference(
                name,
                self.benchmark.concepts[name].class_words,
                references_of(self.benchmark, name, self.folder.references),
            )
            for name in names
        }
        return [
            Item(
                self.folder.image(job.key),
                job.group.scene.text,
                tuple(subjects[name] for name in job.group.scene.concepts),
                places_of(job, load_image(self.folder.image(job.key)).size),
            )
            for job in self.jobs
        ]

    def score(self, metrics: Sequence[str] | None, progress: Callable[[int, int], None] | None = None) -> pd.DataFrame:
        """Measure every image; numbers that are known already are taken from the folder's cache.

        Args:
            metrics: names; None for the benchmark's, else those that suit its model.
            progress: told how many of how many are scored.

        Returns:
            See :func:`~concept_conductor.evaluation.table.frame`.
        """
        import_pandas()  # before anything long begins
        check_sizes(self.folder, self.jobs)
        model = locate_model(self.benchmark.model, self.benchmark.folder)
        instruments = Instruments.for_model(self.benchmark.model if self.benchmark.model == "mini" else model)
        wanted = list(metrics or self.benchmark.metrics or default_metrics(instruments))
        scores = score_images(self.items(), wanted, instruments, self.folder.scores, progress)
        return frame(self._row(job, row) for job, row in zip(self.jobs, scores, strict=True))

    def write(self, results: pd.DataFrame) -> list[Path]:
        """Write tables, plots and the page; what was written, the page last."""
        path, titles = self.folder.path, {job.group.method.name: job.group.method.title for job in self.jobs}
        table = summary(results)
        write_results(results, path)
        write_summary(table, titles, path)
        plots = draw(table, titles)
        for name, content in plots.items():
            with atomic_write(path / "plots" / name) as file:
                file.write(content)
        page = write_page(self.benchmark, self.folder, self.jobs, results, table, plots)
        names = ("results.parquet", "summary.csv", "summary.md", "summary.tex")
        return [*(path / name for name in names), *(path / "plots" / name for name in plots), page]

    def _row(self, job: Job, scores: dict[str, Any]) -> dict[str, Any]:
        record = self.folder.record(job.key)
        if record is None:
            raise ConductorError(f"the image of the job '{job.title}' is gone; run again to make it")
        about = {name: record[name] for name in ("key", "method", "combination", "prompt", "text", "seed")}
        about["image"] = self.folder.image(job.key).relative_to(self.folder.path).as_posix()
        costs = {name: record[name] for name in ("seconds", "peak_memory_bytes")}
        return {**about, **costs, **{name: value for name, value in scores.items() if name != "image"}}


def places_of(job: Job, size: tuple[int, int]) -> tuple[Region, ...]:
    """Where the job's layout wants its concepts; empty where neither masks nor boxes say so.

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
