"""Images made on the way: sample grids, and the training's curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.concept import Concept
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.io.tensors import to_uint8
from concept_conductor.method.sampling import sample_alone
from concept_conductor.training.captions import with_placeholders
from concept_conductor.training.config import Samples

CAPTION_HEIGHT = 14
GAP = 2


def sample_grid(backbone: Backbone, concept: Concept, settings: Samples, resolution: int) -> Image.Image:
    """What the concept alone gives: one row per prompt, one column per weight, all from one noise."""
    side = resolution // backbone.vae_factor
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(1, int(backbone.unet.config.in_channels), side, side, generator=generator)
    prompts = [with_placeholders(text, concept.placeholders) for text in settings.prompts]
    tile = max(resolution, 64)
    width, height = (tile + GAP) * len(settings.weights), (tile + CAPTION_HEIGHT + GAP) * len(prompts) + CAPTION_HEIGHT
    grid = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(grid)
    for column, weight in enumerate(settings.weights):
        draw.text((column * (tile + GAP) + 2, 1), f"{weight:g}", fill="black")
        texts = backbone.encode_concept_prompts(concept, weight, [*prompts, ""])
        for row, text in enumerate(texts[:-1]):
            both = Conditioning.stack([[text, texts[-1]]])
            update = ScaledUpdates(concept.unet, weight)
            pixels = sample_alone(backbone, both, update, noise, settings.steps, settings.guidance_scale)
            image = Image.fromarray(to_uint8(pixels)[0])
            top = CAPTION_HEIGHT + row * (tile + CAPTION_HEIGHT + GAP)
            grid.paste(image.resize((tile, tile)) if tile != resolution else image, (column * (tile + GAP), top))
            if column == 0:
                draw.text((2, top + tile), settings.prompts[row], fill="black")
    return grid


def draw_curves(
    path: Path,
    losses: Sequence[float],
    attention: Sequence[float],
    norms: Sequence[Sequence[float]],
    thresholds: Sequence[float],
) -> Path | None:
    """The training's curves as a PNG; None where matplotlib is not installed (the extra ``train`` has it).

    Args:
        path: the PNG.
        losses, attention: of each step.
        norms: of each step, for each text encoder.
        thresholds: the norms at which vectors are frozen.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    panels = figure.subplots(1, 3)
    steps = np.arange(1, len(losses) + 1)
    smooth = len(losses) > 20
    for panel, title, values in zip(panels, ("loss", "attention loss"), (losses, attention)):
        panel.plot(steps, values, color="0.75" if smooth else "C0", linewidth=0.5 if smooth else 1)
        if smooth:
            window = max(5, len(values) // 20)
            mean = np.convolve(values, np.ones(window) / window, mode="valid")
            panel.plot(steps[window - 1 :], mean, color="C0")
        panel.set_title(title, fontsize=9)
    panels[2].set_title("norm", fontsize=9)
    for encoder, (values, threshold) in enumerate(zip(norms, thresholds, strict=True)):
        panels[2].plot(steps, values, color=f"C{encoder}", linewidth=1)
        panels[2].axhline(threshold, color=f"C{encoder}", linestyle="--", linewidth=0.8)
    for panel in panels:
        panel.set_xlabel("step", fontsize=8)
        panel.tick_params(labelsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return path
