"""What runs in a Ray worker: one model, one image after another, files that came with the jobs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from concept_conductor.evaluation.benchmark.generate import ImageWorker, JobResult
from concept_conductor.evaluation.benchmark.jobs import Job


class Origin(NamedTuple):
    """Who made an image: node and process."""

    node: str
    process: int


@dataclass(frozen=True)
class Shipment:
    """Names and contents of files, by their SHA-256: workers may lie where the driver's disk is not seen."""

    names: Mapping[str, str]

    @staticmethod
    def of(job: Job) -> Shipment:
        """What a job reads."""
        return Shipment({digest: job.group.paths[place].name for place, digest in job.group.hashes.items()})


def packed(path: Path) -> dict[str, bytes]:
    """Contents of a file, under no name, or of all files in a folder by their names in it."""
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

    def ready(self) -> Origin:
        """Answers once the worker is up."""
        import ray

        return Origin(ray.get_runtime_context().get_node_id(), os.getpid())

    def generate(self, job: Job, contents: Mapping[str, Any]) -> tuple[JobResult, Origin]:
        """Make the image of a job.

        Args:
            job: with the driver's paths.
            contents: SHA-256 -> reference to what :func:`packed` gives.
        """
        names = Shipment.of(job).names
        local = {place: self._unpacked(digest, names[digest], contents) for place, digest in job.group.hashes.items()}
        result = self.worker.generate(replace(job, group=replace(job.group, paths=local)))
        origin = self.ready()
        result.record["worker"] = {"node": origin.node, "process": origin.process}
        return result, origin

    def _unpacked(self, digest: str, name: str, contents: Mapping[str, Any]) -> Path:
        import ray

        target = Path(self.folder.name) / digest / name
        if not target.exists():
            for inner, content in ray.get(contents[digest]).items():
                file = target / inner if inner else target
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        return target
