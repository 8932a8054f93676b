"""The folder that an evaluation leaves behind: every image under its key, and a manifest of them all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.generate import JobResult
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.evaluation.benchmark.mini_images import references_of
from concept_conductor.io.files import atomic_write, sha256_of
from concept_conductor.io.images import load_image, load_mask, save_png
from concept_conductor.recipes.provenance import Provenance, versions

FORMAT = 1
MAX_RECORD = 2**20
"""Bytes of a record that is read."""
MAX_MANIFEST = 2**28


@dataclass(frozen=True)
class ResultsFolder:
    """Images of one benchmark. A job is done when its record is there and its image is the one the record names.

    Attributes:
        path: has ``images/KEY.png``, ``KEY-masks.png`` and ``KEY.json`` of each job, and what was drawn for them.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, benchmark: Benchmark) -> ResultsFolder:
        """The folder for the results of ``benchmark``, made where there is none.

        Raises:
            ConductorError: it is a file, holds other things, or results of another benchmark or version.
        """
        if path.exists() and not path.is_dir():
            raise ConductorError(f"'{path}' is a file; expected a folder for the results, choose another with --out")
        stamp = path / "benchmark.json"
        own = {"format": FORMAT, "benchmark": benchmark.name, "version": benchmark.version}
        if stamp.is_file():
            found = _record(stamp) or {}
            if {key: found.get(key) for key in own} != own:
                held = f"{found.get('benchmark')} version {found.get('version')} (format {found.get('format')})"
                raise ConductorError(
                    f"'{path}' holds results of {held}, but this is {benchmark.name} version {benchmark.version} "
                    f"(format {FORMAT}); choose another folder with --out"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise ConductorError(f"'{path}' holds other files and no results; choose an empty or new folder with --out")
        else:
            with atomic_write(stamp) as file:
                file.write(json.dumps(own, indent=2).encode() + b"\n")
        return cls(path)

    @property
    def layouts(self) -> Path:
        """Layouts that were drawn for this benchmark."""
        return self.path / "layouts"

    @property
    def references(self) -> Path:
        """References that were drawn."""
        return self.path / "references"

    @property
    def scores(self) -> Path:
        """The scoring's own cache."""
        return self.path / "scores"

    def image(self, key: str) -> Path:
        """Where a job's image lies."""
        return self.path / "images" / f"{key}.png"

    def masks(self, key: str) -> NDArray[np.bool_]:
        """The masks an image ended with, ``(concepts, h, w)``; none where its method has none."""
        record = self.record(key) or {}
        if record["masks"][0] == 0:
            return np.zeros(record["masks"], dtype=bool)
        stacked = np.asarray(load_mask(self.path / "images" / f"{key}-masks.png")) > 127
        return stacked.reshape(record["masks"])

    def record(self, key: str) -> dict[str, Any] | None:
        """What is known of a finished job; None where it is not finished, or its image is not what was written."""
        record = _record(self.path / "images" / f"{key}.json")
        if record is None or record.get("key") != key or not self.image(key).is_file():
            return None
        return record if sha256_of(self.image(key)) == record.get("sha256") else None

    def keep(self, job: Job, result: JobResult) -> None:
        """Write an image, its masks and, last, the record that says that it is done.

        Raises:
            ConductorError: the disk is full.
        """
        provenance = Provenance.model_validate(result.record["provenance"])
        target = self.image(job.key)
        # a replay would make the image of this project's own method from the recipe
        metadata = provenance.metadata(target) if job.group.method.sampler is None else None
        save_png(Image.fromarray(result.image), target, metadata)
        count, height, width = result.masks.shape
        if count:
            stacked = Image.fromarray(result.masks.reshape(count * height, width).astype(np.uint8) * 255)
            save_png(stacked.convert("1"), self.path / "images" / f"{job.key}-masks.png")
        record = {
            "key": job.key,
            "sha256": sha256_of(target),
            "method": job.group.method.name,
            "combination": job.group.scene.combination,
            "prompt": job.group.scene.prompt,
            "text": job.group.scene.text,
            "seed": job.seed,
            "concepts": list(job.group.scene.concepts),
            "masks": [count, height, width],
            **result.record,
        }
        self._write(self.path / "images" / f"{job.key}.json", record)

    def missing(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs that are not done yet."""
        return [job for job in jobs if self.record(job.key) is None]

    def write_manifest(self, benchmark: Benchmark, jobs: Sequence[Job], status: str) -> dict[str, Any]:
        """Write ``manifest.json``: what was asked for, and of each finished job how it was made."""
        records = {job.key: self.record(job.key) for job in jobs}
        finished = [record for record in records.values() if record is not None]
        manifest = {
            "format": FORMAT,
            "benchmark": benchmark.name,
            "version": benchmark.version,
            "status": status,
            "jobs": {"asked": len(jobs), "finished": len(finished)},
            "seconds": round(sum(record["seconds"] for record in finished), 1),
            "versions": versions(),
            "model": jobs[0].group.model if jobs else None,
            "methods": {job.group.method.name: job.group.method.title for job in jobs},
            "references": {
                name: [self._named(file) for file in references_of(benchmark, name, self.references)]
                for name in dict.fromkeys(name for job in jobs for name in job.group.scene.concepts)
            },
            "files": {str(path): job.group.hashes[place] for job in jobs for place, path in job.group.paths.items()},
            "settings": benchmark.model_dump(mode="json", include={"settings", "seeds", "methods", "model"}),
            "images": [_without_recipe(record) for record in finished],
        }
        self._write(self.path / "manifest.json", manifest)
        return manifest

    def _named(self, file: Path) -> str:
        """A file as the manifest names it: what lies in this folder by its place in it."""
        whole, own = file.resolve(), self.path.resolve()
        return (whole.relative_to(own) if whole.is_relative_to(own) else whole).as_posix()

    def _write(self, path: Path, record: Mapping[str, Any]) -> None:
        with atomic_write(path) as file:
            file.write(json.dumps(record, indent=1, ensure_ascii=False, default=str).encode() + b"\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a results folder.

    Raises:
        ConductorError: it is none, or of another format.
    """
    manifest = _record(path / "manifest.json", MAX_MANIFEST)
    if manifest is None:
        raise ConductorError(
            f"'{path}' holds no results (manifest.json is missing or damaged); give conductor evaluate's"
        )
    if manifest.get("format") != FORMAT:
        raise ConductorError(
            f"'{path}' holds results of format {manifest.get('format')}, but this version reads {FORMAT}"
        )
    return manifest


def check_sizes(folder: ResultsFolder, jobs: Sequence[Job]) -> tuple[int, int]:
    """Width and height of all images.

    Raises:
        ConductorError: some are of another size than the others, which would make scores incomparable.
    """
    first: tuple[int, int] | None = None
    for job in jobs:
        size = load_image(folder.image(job.key)).size
        first = first or size
        if size != first:
            raise ConductorError(
                f"'{folder.image(job.key)}' has {size[0]}x{size[1]} pixels, but the others have {first[0]}x{first[1]}; "
                "images of one size can be compared: remove it and run again"
            )
    if first is None:
        raise ConductorError("there is no image to score")
    return first


def _without_recipe(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record short enough for the manifest: recipe and file hashes stay in the image's own."""
    provenance = record["provenance"]
    rest = {key: value for key, value in record.items() if key not in ("provenance", "masks")}
    return {**rest, "versions": provenance["versions"], "device": provenance["recipe"]["device"]}


def _record(path: Path, most: int = MAX_RECORD) -> dict[str, Any] | None:
    """A JSON object from a file; None where there is none or it is damaged."""
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size <= most:
            data = json.loads(path.read_text(encoding="utf-8"))
            return data if isinstance(data, dict) else None
    return None
