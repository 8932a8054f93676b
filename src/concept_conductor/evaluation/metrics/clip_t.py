"""CLIP-T: how well an image fits its text, by CLIP."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from concept_conductor.evaluation.metrics.embedders import ClipEmbedder


def clip_t(clip: ClipEmbedder, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
    """Return the raw cosine, -1..1, of each image and its text (without CLIPScore's factor 2.5 and cut at 0)."""
    if not images:
        return []
    return (clip.embed(images) * clip.embed_texts(texts)).sum(1).tolist()
