"""The folder a run leaves behind: images, masks, layout, contact sheet and run.json.

Several runs may write to one folder, one after another or at once: run.json lists the images of all that are there.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ValidationError

from concept_conductor.errors import ConductorError
from concept_conductor.io.drawing import contact_sheet, mask_as_image, thumbnail
from concept_conductor.io.files import atomic_write
from concept_conductor.io.images import save_png
from concept_conductor.io.locks import folder_lock
from concept_conductor.io.mask_preview import layout_preview
from concept_conductor.io.ordinary import is_ordinary, read_bounded
from concept_conductor.io.tensors import open_mask
from concept_conductor.layouts.layout import Layout
from concept_conductor.recipes.provenance import absolute, versions
from concept_conductor.recipes.runner import GeneratedImage, RecipeRunner

THUMBNAIL = 512
"""Longest side of an image in the contact sheet; small images are enlarged to at least half of it."""
MANY = 64
"""With more images than this the contact sheet has small ones."""

MOST_RECORD = 2**26
"""Bytes of a run.json that is read to be written anew."""


@dataclass
class RunFolder:
    """Files of one run, each written whole as soon as there is something to say.

    Attributes:
        path: the folder; made with the first file.
        runner: what is run.
        recipe_file: where its recipe came from.
        loading_seconds: what opening the files and the model took.
        finished: an entry of run.json for each image.
        thumbnails: for the contact sheet.
        started: when, by the performance counter.
        run: tells this run from others in the same folder.
    """

    path: Path
    runner: RecipeRunner
    recipe_file: Path
    loading_seconds: float
    finished: list[dict[str, Any]] = field(default_factory=list)
    thumbnails: list[Image.Image] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    run: str = field(default_factory=lambda: secrets.token_hex(4))

    def add(self, image: GeneratedImage) -> Path:
        """Write one image with its masks, and bring run.json up to date."""
        stem = f"seed-{image.seed:04d}"
        file = self.path / f"{stem}.png"
        save_png(image.image, file, image.provenance.metadata(file))
        names = [entry.concept.name for entry in self.runner.concepts]
        if names:
            save_png(layout_preview(image.image, list(image.masks), names), self.path / f"{stem}-masks.png")
        for number, (mask, name) in enumerate(zip(image.masks, names, strict=True), 1):
            alone = self.path / f"{stem}-mask-{number}-{file_name(name)}.png"
            save_png(mask_as_image(mask, image.image.size), alone)
        if not self.finished and self.runner.layout is not None:
            self._write_layout(self.runner.layout, names, image)
        if not self.finished and self.runner.placement is not None:
            save_png(open_mask(self.runner.placement.mask), self.path / "placement.png")
        self._keep_thumbnail(image.image)
        self.finished.append(
            {
                "run": self.run,
                "seed": image.seed,
                "file": file.name,
                "seconds": round(image.seconds, 3),
                "blacked_out_by_safety_checker": image.flagged,
            }
        )
        self.write_record("running")
        return file

    def _write_layout(self, layout: Layout, names: list[str], image: GeneratedImage) -> None:
        """Write the layout with the masks that runs start with; in parts too, where no file of the recipe has it."""
        masks = layout.exact_masks() or list(image.layout_masks)
        given = self.runner.recipe.layout is not None and self.runner.recipe.layout.image is not None
        write_layout(self.path, layout.image, masks[: len(names)], names, parts=not given)
        self._keep_thumbnail(layout.image.convert("RGB").resize(image.image.size))

    def preview(self, image: Image.Image, seed: int, step: int) -> None:
        """Write the image as it is at a step."""
        save_png(image, self.path / "previews" / f"seed-{seed:04d}-step-{step:03d}.png")

    def close(self, status: str) -> None:
        """Write the contact sheet and the last run.json; nothing where no image was finished."""
        if not self.finished:
            return
        try:
            save_png(contact_sheet(self.thumbnails), self.path / "grid.png")
        except Exception:
            status = "failed"
            raise
        finally:
            self.write_record(status)

    def record(self, status: str) -> dict[str, Any]:
        """Return what is to be said of this run."""
        provenance = self.runner.provenance
        asked, finished = list(self.runner.recipe.seeds), [entry["seed"] for entry in self.finished]
        return {
            "status": status,
            "run": self.run,
            "recipe": Path(os.path.relpath(self.recipe_file, self.path)).as_posix(),
            "settings": provenance.recipe.model_dump(mode="json"),
            "seeds": {"asked": asked, "finished": finished},
            "images": self.finished,
            "seconds": {
                "loading": round(self.loading_seconds, 3),
                "images": round(time.perf_counter() - self.started, 3),
            },
            "versions": versions(),
            "sha256": {"model": provenance.model, "files": provenance.files},
        }

    def write_record(self, status: str) -> None:
        """Write run.json: this run, and what other runs left in the folder."""
        path = self.path / "run.json"
        with folder_lock(self.path):
            record = with_other_runs(self.record(status), _read_record(path), self.path)
            with atomic_write(path) as file:
                file.write((json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())

    def _keep_thumbnail(self, image: Image.Image) -> None:
        side = THUMBNAIL if len(self.runner.recipe.seeds) <= MANY else THUMBNAIL // 4
        self.thumbnails.append(thumbnail(image, side))


def with_other_runs(record: dict[str, Any], earlier: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Add to a run's record the images that other runs left in the folder, and those runs as ``other_runs``.

    Args:
        record: of this run, whose images come last and take the place of others of the same name.
        earlier: what run.json says by now; empty for nothing.
        folder: where the images are; those that are gone are left out.
    """
    if not earlier:
        return record
    own = {entry["file"] for entry in record["images"]}
    images = [
        entry
        for entry in earlier["images"]
        if entry["run"] != record["run"] and entry["file"] not in own and is_ordinary(folder / entry["file"])
    ]
    others = {**earlier["other_runs"], earlier["run"]: earlier}
    others = {
        run: {name: value for name, value in other.items() if name not in ("run", "images", "other_runs")}
        for run, other in others.items()
        if any(entry["run"] == run for entry in images)
    }
    return {**record, "images": [*images, *record["images"]], **({"other_runs": others} if others else {})}


class _ImageEntry(BaseModel, extra="allow"):
    file: str
    run: str = "earlier"


class _Record(BaseModel, extra="allow"):
    run: str = "earlier"
    images: list[_ImageEntry]
    other_runs: dict[str, dict[str, Any]] = {}


def _read_record(path: Path) -> dict[str, Any]:
    """Read run.json; nothing where there is none, or something else."""
    try:
        return _Record.model_validate_json(read_bounded(path, MOST_RECORD)).model_dump()
    except (ConductorError, ValidationError):
        return {}


def check_results(folder: Path) -> None:
    """Check, before anything long begins, that a run's files can be written to ``folder``; leave nothing there.

    Raises:
        ConductorError: it is a file or lies in one, nothing can be written there, or the working folder is gone.
    """
    there = absolute(folder)
    missing = []
    while not os.path.lexists(there):
        missing.append(there.name)
        there = there.parent
    if not there.is_dir():
        raise ConductorError(f"'{folder}' is a file, or lies in one; expected a folder, choose another")
    try:
        with tempfile.TemporaryDirectory(prefix=".conductor-", dir=there) as trial:
            deepest = Path(trial, *reversed(missing))
            deepest.mkdir(parents=True, exist_ok=True)
            (deepest / "run.json").touch()
    except OSError as error:
        raise ConductorError(
            f"nothing can be written to '{folder}' ({error.strerror}); choose another folder with --out"
        ) from error


def write_layout(
    folder: Path,
    image: Image.Image,
    masks: Sequence[NDArray[np.bool_]],
    names: Sequence[str],
    *,
    preview: bool = True,
    parts: bool = True,
) -> list[Path]:
    """Write ``layout.png`` (the masks in colours), ``layout-image.png`` and ``layout-mask-N-NAME.png``.

    Args:
        folder: made if need be.
        image: the layout's.
        masks: ``(h, w)`` each, of any size.
        names: one for each mask.
        preview: write the first of these.
        parts: write the others.

    Returns:
        What was written.
    """
    files = []
    if preview:
        files.append(save_png(layout_preview(image, masks, names), folder / "layout.png"))
    if parts:
        files.append(save_png(image, folder / "layout-image.png"))
        for number, (mask, name) in enumerate(zip(masks, names, strict=True), 1):
            file = folder / f"layout-mask-{number}-{file_name(name)}.png"
            files.append(save_png(mask_as_image(mask, image.size), file))
    return files


def file_name(name: str) -> str:
    """Return a concept's name as a part of a file's, at most 160 of the 255 bytes that those may have."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]
    return safe.encode()[:160].decode(errors="ignore")
