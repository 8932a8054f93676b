"""A layout as files: its preview, its picture and its masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.images import mask_picture, save_png
from concept_conductor.layouts.preview import layout_preview


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
            files.append(save_png(mask_picture(mask, image.size), file))
    return files


def file_name(name: str) -> str:
    """A concept's name as a part of a file's, at most 160 of the 255 bytes that those may have."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:60]
    return safe.encode()[:160].decode(errors="ignore")
