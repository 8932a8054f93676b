"""Carrying out jobs one after another in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from concept_conductor.evaluation.benchmark.generate import ImageWorker, JobResult
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.evaluation.benchmark.results import ResultsFolder
from concept_conductor.recipes.runner import StepReport

OnStep = Callable[[Job, StepReport], None]


class Runner(Protocol):
    """Makes images somewhere."""

    def generate_all(self, jobs: Sequence[Job], on_step: OnStep) -> Iterator[tuple[Job, JobResult]]:
        """Yield each job with its image exactly once, in any order; a closed iterator leaves nothing running."""
        ...


class LocalRunner:
    """This process."""

    def generate_all(self, jobs: Sequence[Job], on_step: OnStep) -> Iterator[tuple[Job, JobResult]]:
        """See :class:`Runner`; the order is that of ``jobs``."""
        worker = ImageWorker()
        for job in jobs:
            yield job, worker.generate(job, lambda report, job=job: on_step(job, report))  # type: ignore[misc]


def run(
    folder: ResultsFolder,
    jobs: Sequence[Job],
    runner: Runner,
    on_done: Callable[[Job], None],
    on_step: OnStep = lambda job, report: None,
    on_found: Callable[[int], None] = lambda count: None,
) -> None:
    """Make what is not there yet; every finished image is kept at once, whatever happens after.

    Args:
        folder: of the results.
        jobs: all that are asked for.
        runner: who makes them.
        on_done: told after each image that was made or found.
        on_step: told after each step, where the runner knows.
        on_found: told first how many images are there already.
    """
    missing = folder.missing(jobs)
    waiting = {job.key for job in missing}
    for job in jobs:
        if job.key not in waiting:
            on_done(job)
    on_found(len(jobs) - len(missing))
    images = runner.generate_all(missing, on_step)
    try:
        for job, result in images:
            folder.keep(job, result)
            on_done(job)
    finally:
        close = getattr(images, "close", None)
        if close is not None:
            close()
