"""The folder that an evaluation leaves behind: every image under its key, and a manifest of them all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import filterfalse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.generate import JobResult
from concept_conductor.evaluation.benchmark.jobs import Job
from concept_conductor.evaluation.benchmark.mini_images import references_of
from concept_conductor.evaluation.benchmark.records import JobRecord, Manifest
from concept_conductor.io.documents import Document
from concept_conductor.io.drawing import mask_as_image
from concept_conductor.io.files import atomic_write, sha256_of
from concept_conductor.io.images import load_image, load_mask, save_png
from concept_conductor.io.ordinary import read_bounded
from concept_conductor.io.temporary import is_temporary
from concept_conductor.recipes.provenance import Provenance, versions

FORMAT = 1
MAX_RECORD = 2**20
"""Bytes of a record that is read."""
MAX_MANIFEST = 2**28
STAMP, MANIFEST = "benchmark.json", "manifest.json"
SUMMARIES = ("results.parquet", "summary.csv", "summary.md", "summary.tex")
PAGE, PLOTS = "index.html", "plots"
OURS = {STAMP, MANIFEST, *SUMMARIES, PAGE, PLOTS, "images", "layouts", "references", "scores"}
"""All that an evaluation writes there."""


@dataclass(frozen=True)
class ResultsFolder:
    """Images of one benchmark. A job is done when its record is there and its image is the one the record names.

    Attributes:
        path: has ``images/KEY.png``, ``KEY-masks.png`` and ``KEY.json`` of each job, and what was drawn for them.
    """

    path: Path

    @classmethod
    def open(cls, path: Path, benchmark: Benchmark) -> ResultsFolder:
        """Open the folder for the results of ``benchmark``, made where there is none.

        Raises:
            ConductorError: it is a file, holds other things, or results of another benchmark or version.
        """
        if os.path.exists(path) and not os.path.isdir(path):
            raise ConductorError(f"'{path}' is a file; expected a folder for the results, choose another with --out")
        stamp = path / STAMP
        expected = OURS if os.path.isfile(stamp) else set()  # a damaged stamp is written anew
        own = {"format": FORMAT, "benchmark": benchmark.name, "version": benchmark.version}
        found = _json(stamp)
        if found is not None:
            if {key: found.get(key) for key in own} != own:
                held = f"{found.get('benchmark')} version {found.get('version')} (format {found.get('format')})"
                raise ConductorError(
                    f"'{path}' holds results of {held}, but this is {benchmark.name} version {benchmark.version} "
                    f"(format {FORMAT}); choose another folder with --out"
                )
        elif os.path.isdir(path) and not set(filterfalse(is_temporary, os.listdir(path))) <= expected:
            raise ConductorError(f"'{path}' holds other files and no results; choose an empty or new folder with --out")
        else:
            with atomic_write(stamp) as file:
                file.write(json.dumps(own, indent=2).encode() + b"\n")
        return cls(path)

    @property
    def layouts(self) -> Path:
        """Where layouts are that were drawn for this benchmark."""
        return self.path / "layouts"

    @property
    def references(self) -> Path:
        """Where references are that were drawn."""
        return self.path / "references"

    @property
    def scores(self) -> Path:
        """Where scoring keeps its numbers."""
        return self.path / "scores"

    def image(self, key: str) -> Path:
        """Return where a job's image lies."""
        return self.path / "images" / f"{key}.png"

    def masks_file(self, key: str) -> Path:
        """Return where a job's masks lie, if it has any."""
        return self.path / "images" / f"{key}-masks.png"

    def masks(self, key: str) -> NDArray[np.bool_]:
        """Return the masks an image ended with, ``(concepts, h, w)``; none where its method has none.

        Raises:
            ConductorError: the job is not finished.
        """
        record = self.record(key)
        if record is None:
            raise ConductorError(f"the image '{self.image(key)}' is gone or damaged; run again to make it")
        if record.masks_sha256 is None:
            return np.zeros(record.masks, dtype=bool)
        return (np.asarray(load_mask(self.masks_file(key))) > 127).reshape(record.masks)

    def record(self, key: str) -> JobRecord | None:
        """Return what is known of a finished job; None where it is not finished, or its files are not what was written.

        Whatever is damaged or of another version is so made again.
        """
        data = _json(self.path / "images" / f"{key}.json")
        with suppress(ValidationError, ConductorError):
            record = JobRecord.model_validate(data)
            whole = record.key == key and sha256_of(self.image(key)) == record.sha256
            if record.masks_sha256 is not None:
                whole = whole and sha256_of(self.masks_file(key)) == record.masks_sha256
            return record if whole else None
        return None

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
        masks = self.masks_file(job.key)
        if count:
            stacked = mask_as_image(result.masks.reshape(count * height, width))
            save_png(stacked.convert("1"), masks)
        record = {
            "key": job.key,
            "sha256": sha256_of(target),
            "masks_sha256": sha256_of(masks) if count else None,
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
        """Return the jobs that are not done yet."""
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
            "seconds": round(sum(record.seconds for record in finished), 1),
            "versions": versions(),
            "model": jobs[0].group.model if jobs else None,
            "methods": {job.group.method.name: job.group.method.title for job in jobs},
            "references": {
                name: [self._named(file) for file in references_of(benchmark, name, self.references)]
                for name in dict.fromkeys(name for job in jobs for name in job.group.scene.concepts)
            },
            "files": {str(path): job.group.hashes[place] for job in jobs for place, path in job.group.paths.items()},
            "settings": benchmark.model_dump(mode="json", include={"settings", "seeds", "methods", "model"}),
            "images": [record.short for record in finished],
        }
        self._write(self.path / MANIFEST, manifest)
        return manifest

    def _named(self, file: Path) -> str:
        """Return a file as the manifest names it: what lies in this folder by its place in it."""
        whole, own = file.resolve(), self.path.resolve()
        return (whole.relative_to(own) if whole.is_relative_to(own) else whole).as_posix()

    def _write(self, path: Path, record: Mapping[str, Any]) -> None:
        with atomic_write(path) as file:
            file.write(json.dumps(record, indent=1, ensure_ascii=False, default=str).encode() + b"\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a results folder.

    Raises:
        ConductorError: it is none, lacks something, or is of another format.
    """
    file = path / MANIFEST
    data = _json(file, MAX_MANIFEST)
    if data is None:
        raise ConductorError(
            f"'{path}' holds no results ({MANIFEST} is missing or damaged); run conductor evaluate again, or give its"
        )
    manifest = Document(str(file), data).validated(Manifest)
    if manifest.format != FORMAT:
        raise ConductorError(f"'{path}' holds results of format {manifest.format}, but this version reads {FORMAT}")
    for image in manifest.images:
        if missing := [name for name in image.concepts if name not in manifest.references]:
            raise ConductorError(f"'{file}' names no references of '{missing[0]}'; run conductor evaluate again")
    return data


def check_sizes(folder: ResultsFolder, jobs: Sequence[Job]) -> tuple[int, int]:
    """Return width and height of all images.

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


def _json(path: Path, most: int = MAX_RECORD) -> dict[str, Any] | None:
    """Read a JSON object from a file; None where there is none or it is damaged."""
    with suppress(ConductorError, ValueError, RecursionError):
        data = json.loads(read_bounded(path, most))
        return data if isinstance(data, dict) else None
    return None
