"""Layouts of the sticker world: two objects side by side, drawn in designs that the base model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from concept_conductor.io.tensors import to_images
from concept_conductor.mini.designs import Atlas
from concept_conductor.mini.world import World, caption

STEPS = 50
WEIGHT = 1.0
PAIRS = (
    ("dog-noto", "dog-emojione"),
    ("cat-noto", "cat-emojione"),
    ("dog-noto", "cat-emojione"),
    ("cat-noto", "dog-emojione"),
    ("robot-noto", "robot-emojione"),
    ("backpack-noto", "backpack-emojione"),
    ("mug-noto", "mug-emojione"),
    ("dog-emojione", "robot-noto"),
    ("cat-noto", "backpack-emojione"),
    ("robot-emojione", "mug-noto"),
)
"""Pairs of concepts, look-alikes first; the first stands left."""


@dataclass(frozen=True)
class Arrangement:
    """A layout of two objects in one scene, drawn in designs that the base knows."""

    prompt: str
    image: Image.Image
    masks: tuple[np.ndarray, ...]
    """``(h, w)``, boolean, one of each object."""
    boxes: tuple[tuple[float, float, float, float], ...]
    """left, top, right, bottom of each object as fractions."""


def arrange(world: World, classes: Sequence[str], backdrop: str, seed: int) -> Arrangement:
    """Draw a layout reference of two objects of `classes`, named and numbered from left to right."""
    generator = torch.Generator().manual_seed(seed)
    cells = []
    for name in classes:
        choices = world.choices[world.classes.index(name)]
        cells.append(int(choices[torch.randint(len(choices), (1,), generator=generator)]))
    backdrops = torch.tensor([world.backdrop_names.index(backdrop)])
    scene = world.draw(torch.tensor([cells]), backdrops, generator)
    masks = scene.masks[0].cpu().numpy()
    prompt = caption(list(classes), backdrop, counted=False)
    return Arrangement(prompt, to_images(scene.images / 2 + 0.5)[0], tuple(masks), tuple(map(frame_of, masks)))


def design_of(name: str) -> str:
    """The design that the concept file `CLASS-STYLE` was trained on."""
    design = name.replace("-", "/", 1)
    Atlas.load().index(design)
    return design


def frame_of(mask: np.ndarray) -> tuple[float, float, float, float]:
    """Bounding box of a mask `(h, w)`: left, top, right, bottom as fractions."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
