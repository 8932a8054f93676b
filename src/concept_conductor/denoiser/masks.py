"""Where each concept goes: masks on the latent grid, on every attention grid, and their overlaps."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.errors import ConductorError


class Masks:
    """Boolean masks of all concepts of all images, with their tokens at every attention resolution.

    Attributes:
        grid: ``(images, concepts, h, w)``, boolean, on the latent grid.
    """

    def __init__(self, grid: Tensor) -> None:
        self.grid = grid
        self.rectangles = cache(self._rectangles)
        self.grown = cache(self._grown)
        self._tokens: dict[int, Tensor] = {}

    def tokens(self, count: int) -> Tensor:
        """Return the masks in a layer of ``count`` tokens, ``(images, concepts, count)``, boolean."""
        if torch.compiler.is_compiling():  # what a compiled graph made must not outlive it
            return self._resized(count)
        if count not in self._tokens:  # the same few resolutions are asked for in every layer of every step
            self._tokens[count] = self._resized(count)
        return self._tokens[count]

    def _resized(self, count: int) -> Tensor:
        return resize(self.grid, token_grid(count, self.grid.shape[-2:])).flatten(2)

    def at(self, count: int) -> Tensor:
        """Return the masks on the grid of a layer of ``count`` tokens, ``(images, concepts, h', w')``, boolean."""
        return self.tokens(count).unflatten(2, token_grid(count, self.grid.shape[-2:]))

    def _rectangles(self) -> Masks:
        """Return each mask's bounding rectangle."""
        return Masks(bounding_rectangle(self.grid))

    def _grown(self, margin: float) -> Masks:
        """Grow each mask into what lies around it, but for what is another's.

        Args:
            margin: how far in every direction, as a fraction of the grid's shorter side.
        """
        cells = math.floor(margin * min(self.grid.shape[-2:]) + 0.5)
        if cells == 0 or self.grid.shape[1] == 0:
            return self
        around = F.max_pool2d(self.grid.float(), 2 * cells + 1, stride=1, padding=cells) > 0.5
        others = self.grid.sum(1, keepdim=True) > self.grid.int()
        return Masks(self.grid | (around & ~others))

    def with_tokens(self, tokens: Tensor) -> Masks:
        """Return the masks that have ``tokens (images, concepts, count)`` in a layer of that resolution."""
        size = self.grid.shape[-2:]
        coarse = tokens.unflatten(2, token_grid(tokens.shape[2], size))
        # nearest: bringing the result back to the layer's grid gives exactly `tokens` again
        return Masks(F.interpolate(coarse.float(), size=tuple(size), mode="nearest-exact") > 0.5)

    def with_changed_tokens(self, tokens: Tensor) -> Masks:
        """Do the same, but let latents of unchanged tokens keep theirs: an outline finer than the layer."""
        before, after = (self.with_tokens(each).grid for each in (self.tokens(tokens.shape[2]), tokens))
        return Masks(torch.where(before == after, self.grid, after))


def token_grid(count: int, latent_size: torch.Size | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the grid of a layer with ``count`` tokens, for any aspect ratio.

    Raises:
        ConductorError: no whole division of the latent grid has so many tokens.
    """
    height, width = latent_size
    factor = math.isqrt(max(1, height * width // count))
    grid = (height // factor, width // factor)
    if grid[0] * grid[1] != count:
        raise ConductorError(f"a layer of {count} tokens does not divide the latent grid {height}x{width}")
    return grid


def resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize masks: antialiased bilinear, binarised at 0.5.

    Args:
        masks: ``(images, concepts, h, w)``, boolean.
    """
    return F.interpolate(masks.float(), size=size, mode="bilinear", antialias=True) > 0.5


def to_latent_grid(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring given masks to the latent grid: bilinear resize, thresholded.

    Args:
        pixels: ``(concepts, H, W)`` in 0..255.
        size: height and width of the latent grid.

    Returns:
        ``(concepts, h, w)``, boolean.
    """
    return F.interpolate(pixels[None].float(), size=size, mode="bilinear", antialias=True)[0] > 127


def bounding_rectangle(masks: Tensor) -> Tensor:
    """Return the smallest upright rectangle around each mask; empty for an empty one.

    Args:
        masks: ``(..., h, w)``, boolean.
    """

    def between_first_and_last(present: Tensor) -> Tensor:
        counted = present.int()
        return (counted.cumsum(-1) > 0) & (counted.flip(-1).cumsum(-1).flip(-1) > 0)

    rows = between_first_and_last(masks.any(-1))
    columns = between_first_and_last(masks.any(-2))
    return rows[..., :, None] & columns[..., None, :]
