"""How views become images: colours of heat and clusters, panels, and a chart."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from concept_conductor.io.drawing import INK, MASK_COLOURS, PAPER, SOFT, mask_overlay
from concept_conductor.io.fonts import fitting, font
from concept_conductor.tracing.trace import MAX_CLUSTERS
from concept_conductor.tracing.views import PathView

# matplotlib's "inferno" at nine equal distances: from black over red to pale yellow, also for the colour-blind
INFERNO = ("000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4")
LINE = "#d5dbe3"


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour))


def heat_palette() -> NDArray[np.uint8]:
    """Return colours of heat 0 to 255, ``(256, 3)``."""
    anchors = np.array([_rgb(colour) for colour in INFERNO], dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, 256)
    columns = [np.interp(at, np.arange(len(anchors)), channel) for channel in anchors.T]
    return np.stack(columns, axis=1).round().astype(np.uint8)


def cluster_palette() -> NDArray[np.uint8]:
    """Return a colour for each cluster, neighbours far apart, ``(MAX_CLUSTERS, 3)``."""
    hues = (0.57 + 0.382 * np.arange(MAX_CLUSTERS)) % 1  # the golden section keeps them apart, however many there are
    shades = [(0.55, 0.85), (0.75, 0.62), (0.35, 0.97)]
    colours = [colorsys.hsv_to_rgb(float(hue), *shades[i % len(shades)]) for i, hue in enumerate(hues)]
    return (np.array(colours) * 255).round().astype(np.uint8)


def indexed(values: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """Make an image with a palette of ``values (h, w)``, one pixel for each."""
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    return image


def cluster_image(clusters: NDArray[np.uint8]) -> Image.Image:
    """Draw clusters in colours, one pixel for each token."""
    return indexed(clusters, cluster_palette())


def clusters_large(view: PathView) -> Image.Image:
    """Draw clusters as large as the path's image."""
    return cluster_image(view.clusters).convert("RGB").resize(view.clean.size, Image.Resampling.NEAREST)


def heat_large(view: PathView, index: int) -> Image.Image:
    """Draw one heat map as large as the path's image, smooth."""
    heat = view.heat[index]
    # resized before it is coloured: colours in between would be none of the palette's
    grey = Image.fromarray(heat / (float(heat.max(initial=0)) or 1)).resize(view.clean.size, Image.Resampling.BICUBIC)
    return indexed((np.asarray(grey).clip(0, 1) * 255).round().astype(np.uint8), heat_palette()).convert("RGB")


def masks_large(view: PathView, masks: NDArray[np.bool_]) -> Image.Image:
    """Tint all concepts' masks ``(concepts, h, w)`` on the path's image, each in its colour."""
    return mask_overlay(view.clean, masks)


def own_mask_large(view: PathView, masks: NDArray[np.bool_], number: int) -> Image.Image:
    """Tint the mask of concept ``number``, from 0, on the path's image, in its colour."""
    alone = np.zeros_like(masks)
    alone[number] = masks[number]
    return mask_overlay(view.clean, alone)


def chart(series: Mapping[str, Sequence[float | None]], colours: Sequence[str], title: str) -> Image.Image:
    """Draw lines over the steps, from 0 to the largest value.

    Args:
        series: name -> a value for each step; None where there is none.
        colours: of the lines.
        title: above it.
    """
    scale, width, height, left, top, bottom = 2, 720, 300, 60, 34, 40  # drawn twice as large, for smooth lines
    image = Image.new("RGB", (width * scale, height * scale), PAPER)
    draw = ImageDraw.Draw(image)
    write = font(12 * scale)
    steps = max(len(values) for values in series.values())
    most = max((value for values in series.values() for value in values if value is not None), default=0.0) or 1.0

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + (width - left - 20) * step / max(1, steps - 1)
        y = height - bottom - (height - top - bottom) * value / most
        return x * scale, y * scale

    draw.text((left * scale, 8 * scale), title, fill=INK, font=font(14 * scale))
    for share in (0, 0.5, 1):
        draw.line([place(0, share * most), place(steps - 1, share * most)], fill=LINE, width=scale)
        x, y = place(0, share * most)
        draw.text((x - 6 * scale, y), f"{share * most:.3g}", fill=SOFT, font=write, anchor="rm")
    for step in sorted({round(share * (steps - 1)) for share in (0, 0.25, 0.5, 0.75, 1)}):
        x, y = place(step, 0)
        draw.text((x, y + 6 * scale), str(step), fill=SOFT, font=write, anchor="mt")
    key = left * 1.0
    for (name, values), colour in zip(series.items(), colours, strict=True):
        points = [place(step, value) for step, value in enumerate(values) if value is not None]
        draw.line(points, fill=colour, width=2 * scale, joint="curve")
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
        label = fitting(name, 200 * scale, 12 * scale)
        draw.rectangle((key * scale, (height - 16) * scale, (key + 10) * scale, (height - 6) * scale), fill=colour)
        draw.text(((key + 14) * scale, (height - 11) * scale), label, fill=INK, font=write, anchor="lm")
        key += 30 + write.getlength(label) / scale
    return image.resize((width, height), Image.Resampling.LANCZOS)


def line_colours(concepts: int) -> list[str]:
    """Return the colours of the base path and of every concept's."""
    return [INK, *(f"#{MASK_COLOURS[i % len(MASK_COLOURS)]}" for i in range(concepts))]
