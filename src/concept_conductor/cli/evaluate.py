"""`conductor evaluate`: make a benchmark's images by several methods, score them, write tables and a page."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_conductor.cli import hide_loading_bars
from concept_conductor.cli.terminal import shown_progress, words
from concept_conductor.errors import ConductorError

if TYPE_CHECKING:
    from rich.progress import Progress

    from concept_conductor.evaluation.benchmark.benchmark import Benchmark
    from concept_conductor.evaluation.benchmark.jobs import Job
    from concept_conductor.evaluation.benchmark.results import ResultsFolder
    from concept_conductor.evaluation.benchmark.runner import Runner
    from concept_conductor.evaluation.evaluate import Evaluation
    from concept_conductor.recipes.runner import StepReport


def evaluate(
    benchmark: Annotated[
        str,
        typer.Argument(
            help="A benchmark file, or one that is shipped: mini-look-alikes, mini-three-concepts, paper.",
            metavar="BENCHMARK.yaml",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results; what is there is not made again.", show_default="outputs/NAME"),
    ] = None,
    subset: Annotated[str | None, typer.Option(help="A named part of the benchmark.")] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Names with commas between; by default the benchmark's, or all.", metavar="NAME,..."),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Names with commas between; by default the benchmark's, or all that fit.", metavar="NAME,..."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Make the images on a Ray cluster: HOST:PORT, ray://HOST:PORT, auto or local.", metavar="ADDRESS"
        ),
    ] = None,
    worker_cpus: Annotated[
        int | None,
        typer.Option(help="With --ray: CPUs for each worker where there is no GPU.", min=1, max=1024, show_default="2"),
    ] = None,
    only_images: Annotated[bool, typer.Option("--only-images", help="Leave scoring to another time.")] = False,
    write: Annotated[
        Path | None, typer.Option(help="Write the benchmark to this file, to start your own from, and stop.")
    ] = None,
) -> None:
    """Make a benchmark's images by several methods, score them, and write tables, plots and a page.

    May be interrupted, run again and extended at any time: only what is missing is made or measured.
    """
    hide_loading_bars()
    from concept_conductor.evaluation.benchmark.shipped import open_benchmark

    if write is not None:
        write_copy(benchmark, write)
        return
    chosen = open_benchmark(benchmark)
    if subset is not None:
        chosen = chosen.subset(subset)
    from concept_conductor.evaluation.benchmark.jobs import chosen_methods, plan
    from concept_conductor.evaluation.benchmark.mini_images import references_of
    from concept_conductor.evaluation.benchmark.results import ResultsFolder
    from concept_conductor.evaluation.evaluate import Evaluation, check_packages

    runner = runner_for(ray) if worker_cpus is None else ray_runner(ray, worker_cpus)
    wanted = chosen_methods(chosen, listed(methods))
    measured = checked_metrics(listed(metrics) or chosen.metrics)
    if not only_images:
        check_packages()
    chosen.check_files()
    folder = ResultsFolder.open(out or Path("outputs") / chosen.name, chosen)
    for name in chosen.concepts:
        references_of(chosen, name, folder.references)  # a design that there is not is said before the long part
    jobs = plan(chosen, wanted, folder.layouts)
    evaluation = Evaluation(chosen, folder, jobs)
    if not only_images:
        evaluation.check(measured)
    make_images(chosen, folder, jobs, runner)
    if only_images:
        typer.echo(f"{len(jobs)} images in '{folder.path}'")
        return
    score_images(evaluation, measured)


def write_copy(name: str, target: Path) -> None:
    """Write a shipped benchmark as a file."""
    from concept_conductor.evaluation.benchmark.shipped import SHIPPED, text_of
    from concept_conductor.io.files import atomic_write

    if name not in SHIPPED:
        raise ConductorError(f"there is no shipped benchmark '{name}'; there are: {', '.join(SHIPPED)}")
    if os.path.exists(target):
        raise ConductorError(f"'{target}' is there already; give another name with --write")
    with atomic_write(target) as file:
        file.write(text_of(name).encode())
    typer.echo(str(target))


def listed(names: str | None) -> list[str] | None:
    """Return ``a,b`` as a list."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def checked_metrics(names: Sequence[str] | None) -> list[str] | None:
    """Return names of metrics that there are; None for those that suit the model.

    Raises:
        ConductorError: there is no such metric.
    """
    from concept_conductor.evaluation.metrics.registry import find_metrics

    return None if names is None else [metric.name for metric in find_metrics(names)]


def runner_for(address: str | None) -> Runner:
    """Return who makes the images; a cluster that does not answer is said at once."""
    from concept_conductor.evaluation.benchmark.runner import LocalRunner

    return LocalRunner() if address is None else ray_runner(address)


def ray_runner(address: str | None, *cpus: int) -> Runner:
    """Return a Ray cluster, with so many CPUs for each worker.

    Raises:
        ConductorError: there is none.
    """
    if address is None:
        raise ConductorError("--worker-cpus is for workers on Ray; give --ray too, such as --ray local")
    from concept_conductor.distributed.cluster import reach
    from concept_conductor.distributed.pool import RayRunner

    return RayRunner(reach(address), *cpus)


def make_images(benchmark: Benchmark, folder: ResultsFolder, jobs: Sequence[Job], runner: Runner) -> None:
    """Make what is missing, with a progress bar on stderr; what is done stays, however it ends."""
    from concept_conductor.evaluation.benchmark.runner import run

    done: list[Job] = []
    status = "failed"
    try:
        with progress_bar() as bar:
            task, pace = bar.add_task("looking what is there", total=len(jobs)), Pace(len(jobs))

            def on_done(job: Job) -> None:
                done.append(job)
                bar.update(task, completed=len(done), description=job.group.method.title)
                if (line := pace.line(len(done))) is not None and not bar.console.is_terminal:
                    typer.echo(f"{line}: {job.title}", err=True)

            def on_step(job: Job, report: StepReport) -> None:
                what = "inverting the layout of" if report.preview is None else f"step {report.step}/{report.steps} of"
                bar.update(task, description=f"{what} {job.group.scene.combination}, {job.group.method.title}")

            run(folder, jobs, runner, on_done, on_step, pace.begin)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        typer.echo(
            f"interrupted: {len(done)} of {len(jobs)} images are finished and kept in '{folder.path}'; the same "
            "command goes on from there",
            err=True,
        )
        raise typer.Exit(130) from None
    except Exception:
        if done:
            typer.echo(f"{len(done)} of {len(jobs)} images are finished and kept in '{folder.path}'", err=True)
        raise
    finally:
        folder.write_manifest(benchmark, jobs, status)


def score_images(evaluation: Evaluation, metrics: Sequence[str] | None) -> None:
    """Score, write, and print the table."""
    from concept_conductor.evaluation.report.table import markdown, summary

    with progress_bar() as bar:
        task = bar.add_task("scoring", total=len(evaluation.jobs))
        results = evaluation.score(metrics, lambda number, total: bar.update(task, completed=number, total=total))
    written = evaluation.write(results)
    titles = {job.group.method.name: job.group.method.title for job in evaluation.jobs}
    typer.echo(markdown(summary(results), titles))
    typer.echo(f"{written[-1]}")


@dataclass
class Pace:
    """How fast images are made, in a line now and then, for logs that show no bar.

    Attributes:
        total: images.
        every: seconds between two lines.
    """

    total: int
    every: float = 30.0
    _found: int = 0
    _start: float | None = None
    _said: float = -math.inf

    def begin(self, found: int) -> None:
        """Count from now on: ``found`` images are there already."""
        self._found, self._start = found, time.monotonic()

    def line(self, done: int) -> str | None:
        """Return how far it is and how long it takes still; None while it is too early to say so again."""
        now = time.monotonic()
        if self._start is None or (now - self._said < self.every and done < self.total):
            return None
        self._said = now
        each = (now - self._start) / (done - self._found)
        left = timedelta(seconds=round(each * (self.total - done)))
        return f"{done} of {self.total} images, {each:.1f} s each, {left} left"


def progress_bar() -> AbstractContextManager[Progress]:
    """Show how many images are done and for how long it takes still, on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), words("description"))
    # of the last hour's pace: methods differ in speed, and images that were there already took no time
    return shown_progress(*columns, transient=True, speed_estimate_period=3600)
