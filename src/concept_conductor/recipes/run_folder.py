"""The folder a run leaves behind: images, masks, layout, contact sheet and run.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.io.drawing import contact_sheet, mask_as_image, thumbnail
from concept_conductor.io.files import atomic_write
from concept_conductor.io.images import save_png
from concept_conductor.io.mask_preview import layout_preview
from concept_conductor.io.tensors import mask_image
from concept_conductor.layouts.layout import Layout
from concept_conductor.recipes.provenance import versions
from concept_conductor.recipes.runner import GeneratedImage, RecipeRunner

THUMBNAIL = 512
"""Longest side of an image in the contact sheet; small images are enlarged to at least half of it."""
MANY = 64
"""With more images than this the contact sheet has small ones."""


@dataclass
class RunFolder:
    """Files of one run, each written whole as soon as there is something to say.

    Attributes:
        path: the folder; made with the first file.
        runner: what is run.
        recipe_file: where its recipe came from.
        loading_seconds: what opening the files and the model took.
    """

    path: Path
    runner: RecipeRunner
    recipe_file: Path
    loading_seconds: float
    finished: list[dict[str, Any]] = field(default_factory=list)
    thumbnails: list[Image.Image] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)

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
            save_png(mask_image(self.runner.placement.mask), self.path / "placement.png")
        self._keep_thumbnail(image.image)
        self.finished.append(
            {
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
        """What run.json holds."""
        provenance = self.runner.provenance
        asked, finished = list(self.runner.recipe.seeds), [entry["seed"] for entry in self.finished]
        return {
            "status": status,
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
        """Write run.json."""
        with atomic_write(self.path / "run.json") as file:
            file.write((json.dumps(self.record(status), indent=2, ensure_ascii=False) + "\n").encode())

    def _keep_thumbnail(self, image: Image.Image) -> None:
        side = THUMBNAIL if len(self.runner.recipe.seeds) <= MANY else THUMBNAIL // 4
        self.thumbnails.append(thumbnail(image, side))


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
    """A concept's name as a part of a file's, at most 160 of the 255 bytes that those may have."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]
    return safe.encode()[:160].decode(errors="ignore")
