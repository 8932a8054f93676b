"""What runs in a Ray worker: one model, one image after another, files that came with the jobs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from concept_conductor.evaluation.benchmark.generate import ImageWorker, JobResult
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.io.folders import atomic_folder


class WorkerId(NamedTuple):
    """Who made an image: node and process."""

    node: str
    process: int


def file_names(job: Job) -> dict[str, str]:
    """Return the names of the files that a job reads, by their SHA-256: a worker may not see the driver's disk."""
    return {digest: job.group.paths[place].name for place, digest in job.group.hashes.items()}


def file_contents(path: Path) -> dict[str, bytes]:
    """Return the contents of a file, under no name, or of all files in a folder by their names in it."""
    if not path.is_dir():
        return {"": path.read_bytes()}
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


class Worker:
    """The actor. Files are written once to a folder of its own, which goes when the process does.

    Args:
        threads: of torch; equal numbers give bitwise equal images.
    """

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        self.worker = ImageWorker()
        self.folder = tempfile.TemporaryDirectory(prefix="conductor-")

    def ready(self) -> WorkerId:
        """Answer once the worker is up."""
        import ray

        return WorkerId(ray.get_runtime_context().get_node_id(), os.getpid())

    def generate(self, job: Job, contents: Mapping[str, Any]) -> JobResult:
        """Make the image of a job.

        Args:
            job: with the driver's paths.
            contents: SHA-256 -> reference to what :func:`file_contents` gives.
        """
        names = file_names(job)
        local = {place: self._local_copy(digest, names[digest], contents) for place, digest in job.group.hashes.items()}
        result = self.worker.generate(replace(job, group=replace(job.group, paths=local)))
        worker_id = self.ready()
        result.record["worker"] = {"node": worker_id.node, "process": worker_id.process}
        return result

    def _local_copy(self, digest: str, name: str, contents: Mapping[str, Any]) -> Path:
        import ray

        folder = Path(self.folder.name) / digest
        if not folder.exists():
            with atomic_folder(folder) as unfinished:
                for inner, content in ray.get(contents[digest]).items():
                    file = unfinished / name / inner if inner else unfinished / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content)
        return folder / name
