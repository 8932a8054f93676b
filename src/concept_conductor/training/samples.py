"""Images made on the way: sample grids, and the training's curves."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.concept import Concept
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.io.drawing import image_table
from concept_conductor.io.tensors import to_images
from concept_conductor.method.sampling import sample_alone
from concept_conductor.training.captions import with_placeholders
from concept_conductor.training.config import Samples


def sample_grid(backbone: Backbone, concept: Concept, settings: Samples, resolution: int) -> Image.Image:
    """Draw what the concept alone gives: one row per prompt, one column per weight, all from one noise."""
    side = resolution // backbone.vae_factor
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(1, int(backbone.unet.config.in_channels), side, side, generator=generator)
    prompts = [with_placeholders(text, concept.placeholders) for text in settings.prompts]
    rows: list[tuple[str, list[Image.Image | None]]] = [(text, []) for text in settings.prompts]
    for weight in settings.weights:
        texts = backbone.encode_concept_prompts(concept, weight, [*prompts, ""])
        for (_, images), text in zip(rows, texts[:-1]):
            both = Conditioning.stack([[text, texts[-1]]])
            update = ScaledUpdates(concept.unet, weight)
            pixels = sample_alone(backbone, both, update, noise, settings.steps, settings.guidance_scale)
            images += to_images(pixels)
    return image_table(rows, max(resolution, 64), [f"{weight:g}" for weight in settings.weights])


def draw_curves(
    losses: Sequence[float],
    attention: Sequence[float],
    norms: Sequence[Sequence[float]],
    thresholds: Sequence[float],
) -> bytes | None:
    """Draw a training's curves as a PNG; None where matplotlib is not installed (the extra ``train`` has it).

    Args:
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
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100, metadata={"Software": None})
    return content.getvalue()
