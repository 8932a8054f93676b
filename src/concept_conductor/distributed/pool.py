"""Jobs on a Ray cluster: workers that hold the model, retries when they are lost, bounded work in flight."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from concept_conductor.distributed.cluster import CPU_SHARE, connected, shares
from concept_conductor.distributed.worker import Worker, file_contents, file_names
from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.generate import JobResult
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.evaluation.benchmark.runner import OnStep

logger = logging.getLogger(__name__)

IN_FLIGHT = 2
"""Jobs that a worker holds: one that it works on, one so that it need not wait."""
ATTEMPTS = 4
"""How often a job is tried on workers that are lost before it is given up."""
FIRST_WORKER = 300.0
"""Seconds in which some worker must be up."""


@dataclass
class WorkerPool:
    """The workers, what each is working on, and what is left to do.

    Attributes:
        ray: connected.
        resources: of one worker.
        pending: jobs by scene and method: a worker stays with one group while it lasts.
        starting: reference to a worker's answer -> worker.
        running: reference to a result -> worker and job.
        groups: worker -> what is left of its group.
        contents: SHA-256 of a file -> reference to its contents.
        attempts: a job's key -> how often it was lost with its worker.
        lost: how many workers were.
    """

    ray: Any
    resources: dict[str, float]
    pending: list[deque[Job]]
    starting: dict[Any, Any] = field(default_factory=dict)
    running: dict[Any, tuple[Any, Job]] = field(default_factory=dict)
    groups: dict[Any, deque[Job]] = field(default_factory=dict)
    contents: dict[str, Any] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    lost: int = 0

    def start_worker(self) -> None:
        """Ask for one more worker; it is given jobs once it answers."""
        threads = min(torch.get_num_threads(), int(self.resources["num_cpus"]))
        actor = self.ray.remote(Worker).options(max_restarts=0, **self.resources).remote(threads)
        self.starting[actor.ready.remote()] = actor

    def on_started(self, reference: Any) -> None:
        """Give a worker that answered its first jobs; replace one that could not start."""
        actor = self.starting.pop(reference)
        try:
            self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self._replace(actor, error)
        else:
            self.groups[actor] = deque()
            self.assign(actor)

    def on_finished(self, reference: Any) -> tuple[Job, JobResult] | None:
        """Return what came of a job: its image, or None where its worker was lost and the job waits again.

        Raises:
            ConductorError: the job itself failed, or was lost too often.
        """
        actor, job = self.running.pop(reference)
        try:
            result = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise getattr(error, "cause", None) or error from error
        except self.ray.exceptions.RayError as error:  # the process, its node or the result is lost
            self._again(job, error)
            if actor in self.groups:
                self._replace(actor, error)
            return None
        self.assign(actor)
        return job, result

    def assign(self, actor: Any) -> None:
        """Give a worker as much as it may hold."""
        if actor not in self.groups:
            return  # lost meanwhile
        while sum(holder == actor for holder, _ in self.running.values()) < IN_FLIGHT:
            own = self.groups[actor]
            if not own and self.pending:
                own = self.groups[actor] = self.pending.pop(0)
            if not own:
                own = max(self.groups.values(), key=len)  # help whoever has most left
            if not own:
                return
            job = own.popleft()
            references = {digest: self._content(job, digest) for digest in file_names(job)}
            self.running[actor.generate.remote(job, references)] = (actor, job)

    def stop(self) -> None:
        """End every worker."""
        for actor in {*self.groups, *self.starting.values()}:
            self.ray.kill(actor)

    def _content(self, job: Job, digest: str) -> Any:
        if digest not in self.contents:
            place = next(place for place, known in job.group.hashes.items() if known == digest)
            self.contents[digest] = self.ray.put(file_contents(job.group.paths[place]))
        return self.contents[digest]

    def _again(self, job: Job, error: Exception) -> None:
        self.attempts[job.key] = self.attempts.get(job.key, 0) + 1
        if self.attempts[job.key] >= ATTEMPTS:
            raise ConductorError(
                f"the job '{job.title}' was lost with its worker {ATTEMPTS} times ({_line(error)}); perhaps the "
                "worker's memory is too small for the model"
            ) from error
        self.pending.insert(0, deque([job]))

    def _replace(self, actor: Any, error: Exception) -> None:
        """Start another worker instead of one that is lost; what waited for it goes back."""
        self.lost += 1
        logger.warning("a Ray worker was lost (%s); another takes its place", _line(error))
        if waiting := self.groups.pop(actor, None):
            self.pending.insert(0, waiting)
        if not self.groups and self.lost > ATTEMPTS * (len(self.starting) + 1):
            raise ConductorError(f"every Ray worker is lost ({_line(error)}); see the cluster's logs") from error
        self.start_worker()
        for other in list(self.groups):
            self.assign(other)


@dataclass(frozen=True)
class RayRunner:
    """Makes images on a Ray cluster.

    Attributes:
        address: see :func:`~concept_conductor.distributed.cluster.reach`.
        cpus: for each worker on machines without GPU.
    """

    address: str
    cpus: int = CPU_SHARE

    def generate_all(self, jobs: Sequence[Job], on_step: OnStep) -> Iterator[tuple[Job, JobResult]]:
        """See :class:`~concept_conductor.evaluation.benchmark.runner.Runner`; steps are not told.

        Raises:
            ConductorError: no cluster, a job that cannot be done, or no worker in five minutes.
        """
        if not jobs:
            return
        with connected(self.address) as ray:
            groups: dict[str, deque[Job]] = {}
            for job in jobs:
                groups.setdefault(job.group.content, deque()).append(job)
            room, resources = shares(ray, self.cpus)
            pool = WorkerPool(ray, resources, list(groups.values()))
            try:
                for _ in range(min(room, len(jobs))):
                    pool.start_worker()
                left = len(jobs)
                while left:
                    waited_for = [*pool.starting, *pool.running]
                    ready, _ = ray.wait(waited_for, timeout=None if pool.running else FIRST_WORKER)
                    if not ready:
                        raise ConductorError(
                            f"no Ray worker came up in {FIRST_WORKER:.0f} s; the cluster has no free "
                            f"{', '.join(name.removeprefix('num_') for name in resources)}"
                        )
                    for reference in ready:
                        if reference in pool.starting:
                            pool.on_started(reference)
                        elif (result := pool.on_finished(reference)) is not None:
                            left -= 1
                            yield result
            finally:
                pool.stop()


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
