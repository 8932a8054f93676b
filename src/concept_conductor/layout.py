"""What a layout is and where it comes from: a reference image with masks, or with points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from concept_conductor.clustering import kmeans
from concept_conductor.errors import ConductorError
from concept_conductor.inversion import BASE_PATH, Inverted
from concept_conductor.masks import Masks, to_latent_grid, token_grid
from concept_conductor.settings import Injection, Refinement
from concept_conductor.unet.multipath import Multipath
from concept_conductor.unet.paths import Fusion

#: A mask as users have it: a picture, or ``(h, w)`` bool, uint8, or float in 0..1.
MaskLike = Image.Image | np.ndarray | Tensor
#: A point in pixels of the reference image, from its upper left corner.
Point = tuple[float, float]

CLUSTERS_FOR_POINTS = 6


@dataclass(frozen=True)
class Layout:
    """The layout reference: an ordinary image with the wanted arrangement, its prompt, a place per concept.

    Attributes:
        image: a photo, a generated picture, or a collage.
        prompt: what the image shows.
        masks: one per concept, in the concepts' order; or None.
        points: one per concept ``(x, y)`` in pixels of ``image``: its mask is the region under the point; or None.
    """

    image: Image.Image
    prompt: str
    masks: Sequence[MaskLike] | None = None
    points: Sequence[Point] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.image, Image.Image):
            raise ConductorError(f"the layout's image must be a PIL image, but it is a {type(self.image).__name__}")
        if (self.masks is None) == (self.points is None):
            raise ConductorError("a layout needs either masks= or points= (one for each concept), and not both")

    def mask_source(
        self, concepts: int, size: tuple[int, int], latent_size: tuple[int, int], refinement: Refinement
    ) -> MaskSource:
        """Where this layout's masks come from, checked.

        Args:
            concepts: number of concepts.
            size: width and height of the run, in pixels.
            latent_size: height and width of the latent grid.
            refinement: filled; points look where refinement would end.

        Raises:
            ConductorError: another number of masks or points than of concepts, an empty mask, masks that cover
                each other wholly, a point outside.
        """
        given = self.masks if self.masks is not None else self.points
        assert given is not None
        kind = "masks" if self.masks is not None else "points"
        if len(given) != concepts:
            raise ConductorError(
                f"the layout has {len(given)} {kind} for {concepts} concepts; give one for each concept, in their order"
            )
        if self.masks is not None:
            return GivenMasks(checked_masks(self.masks, size, latent_size))
        assert self.points is not None
        for x, y in self.points:
            if not (0 <= x < self.image.width and 0 <= y < self.image.height):
                raise ConductorError(
                    f"the point ({x:g}, {y:g}) lies outside of the layout image of {self.image.width}x"
                    f"{self.image.height} pixels; points are (x, y) from its upper left corner"
                )
        fractions = [(x / self.image.width, y / self.image.height) for x, y in self.points]
        return MasksUnderPoints(fractions, latent_size, refinement)


class MaskSource(Protocol):
    """Gives the masks a run starts with."""

    def masks(self, paths: Multipath, timesteps: Tensor, reference: Inverted | None, images: int) -> Masks: ...


@dataclass(frozen=True)
class GivenMasks:
    """Masks that the user drew; ``grid`` is ``(concepts, h, w)``, boolean, on the latent grid."""

    grid: Tensor

    def masks(self, paths: Multipath, timesteps: Tensor, reference: Inverted | None, images: int) -> Masks:
        return Masks(self.grid.to(paths.backbone.device).expand(images, -1, -1, -1))


@dataclass(frozen=True)
class MasksUnderPoints:
    """The regions of the reference under the user's points.

    The reference's mask-layer attention, at the step where refinement ends, is clustered into six regions.

    Attributes:
        fractions: points as fractions of width and height.
        latent_size: height and width of the latent grid.
        refinement: filled.
    """

    fractions: Sequence[Point]
    latent_size: tuple[int, int]
    refinement: Refinement

    def masks(self, paths: Multipath, timesteps: Tensor, reference: Inverted | None, images: int) -> Masks:
        assert reference is not None and self.refinement.end is not None
        t = timesteps[min(len(timesteps) - 1, int(self.refinement.end * len(timesteps) + 0.5))]
        nothing = Masks(torch.zeros(1, 0, *self.latent_size, dtype=torch.bool, device=timesteps.device))
        fusion = Fusion(nothing, Injection(self_attention=False, cross_attention=False), record=True)
        assert reference.text is not None
        paths.noise(reference.latents[int(t)], t, reference.text.conditional(), BASE_PATH, fusion)
        attention = fusion.attention[0][0]  # (1, tokens, tokens)
        seeds = torch.tensor([self.refinement.seed])
        labels = kmeans(attention, [CLUSTERS_FOR_POINTS], seeds=seeds, restarts=self.refinement.restarts)[0, 0]
        height, width = token_grid(len(labels), self.latent_size)
        under = [labels[int(y * height) * width + int(x * width)] for x, y in self.fractions]
        tokens = torch.stack([labels == label for label in under])  # (concepts, tokens)
        for index, label in enumerate(under):
            if any(label == other for other in under[:index]):
                x, y = self.fractions[index]
                raise ConductorError(
                    f"point {index + 1} (at {x:.0%} of the width, {y:.0%} of the height) falls on the same region of "
                    "the layout image as an earlier point; move it, or give masks instead of points"
                )
        empty = Masks(torch.zeros(1, 1, *self.latent_size, dtype=torch.bool, device=timesteps.device))
        grid = empty.with_tokens(tokens[None]).grid
        return Masks(grid.expand(images, -1, -1, -1))


def checked_masks(masks: Sequence[MaskLike], size: tuple[int, int], latent_size: tuple[int, int]) -> Tensor:
    """Users' masks on the latent grid, ``(concepts, h, w)``, boolean.

    Raises:
        ConductorError: a mask is empty there, or is wholly covered by later ones.
    """
    grid = to_latent_grid(torch.stack([mask_pixels(mask, size) for mask in masks]), latent_size)
    for index, mask in enumerate(grid):
        if not mask.any():
            raise ConductorError(
                f"mask {index + 1} is empty at the latent resolution {latent_size[1]}x{latent_size[0]}; "
                "draw the concept's area in white on black, and not too small"
            )
        later = grid[index + 1 :].any(0)
        if not (mask & ~later).any():
            raise ConductorError(
                f"mask {index + 1} is wholly covered by later masks, so its concept could not appear; draw them apart, "
                "or give the smaller one later: where masks overlap the later concept wins"
            )
    return grid


def mask_pixels(mask: MaskLike, size: tuple[int, int]) -> Tensor:
    """A user's mask at the size of the run, ``(H, W)`` in 0..255.

    Args:
        size: width and height.
    """
    if not isinstance(mask, Image.Image):
        array = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
        if array.ndim != 2:
            raise ConductorError(f"a mask array must be (h, w), but its shape is {array.shape}")
        if array.dtype == bool or np.issubdtype(array.dtype, np.floating):
            array = (np.clip(array.astype(np.float32), 0, 1) * 255).round()
        mask = Image.fromarray(array.astype(np.uint8))
    return torch.from_numpy(np.array(mask.convert("L").resize(size)))


def image_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """A picture at the size of the run, ``(1, 3, H, W)`` in -1..1.

    Args:
        size: width and height.
    """
    array = np.array(image.convert("RGB").resize(size), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1
