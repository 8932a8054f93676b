"""Where the masks that a run starts with come from: given, or found among the reference's regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from concept_conductor.denoiser.masks import Masks, token_grid
from concept_conductor.denoiser.paths import Fusion
from concept_conductor.errors import ConductorError
from concept_conductor.method.box_masks import FractionBox, masks_in_boxes
from concept_conductor.method.inversion import BASE_PATH, Inverted
from concept_conductor.method.kmeans import kmeans
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Injection, Refinement, step_at

CLUSTERS = 6
"""Regions of the reference among which points choose."""


class MaskSource(Protocol):
    """Where the masks that a run starts with come from."""

    def initial(self, paths: Multipath, timesteps: Tensor, reference: Inverted | None, images: int) -> Masks: ...


@dataclass(frozen=True)
class GivenMasks:
    """Masks that the user drew; ``grid`` is ``(concepts, h, w)``, boolean, on the latent grid."""

    grid: Tensor

    def initial(self, paths: Multipath, timesteps: Tensor, reference: Inverted | None, images: int) -> Masks:
        return Masks(self.grid.to(paths.backbone.device).expand(images, -1, -1, -1))


@dataclass(frozen=True)
class MasksOfRegions(ABC):
    """Choose masks among the reference's regions.

    The reference's mask-layer attention, at the step where refinement ends, is clustered into regions.

    Attributes:
        latent_size: height and width of the latent grid.
        refinement: filled.
    """

    latent_size: tuple[int, int]
    refinement: Refinement

    clusterings: ClassVar[tuple[int, ...]] = (CLUSTERS,)

    def initial(self, paths: Multipath, timesteps: Tensor, reference: Inverted | None, images: int) -> Masks:
        assert reference is not None and self.refinement.end is not None
        index = min(len(timesteps) - 1, step_at(self.refinement.end, len(timesteps)))
        nothing = Masks(torch.zeros(1, 0, *self.latent_size, dtype=torch.bool, device=timesteps.device))
        fusion = Fusion(nothing, Injection(self_attention=False, cross_attention=False), record=True)
        text = reference.source.text.conditional
        paths.predict(reference.latents[index], timesteps[index], text, BASE_PATH, fusion)
        attention = fusion.attention[0][0]  # (1, tokens, tokens)
        seeds = torch.tensor([self.refinement.seed])
        ks = [k for k in self.clusterings if k <= attention.shape[-1]]
        labels = kmeans(attention, ks, seeds=seeds, restarts=self.refinement.restarts)[0]
        grid = self.chosen(labels, token_grid(labels.shape[1], self.latent_size))
        return Masks(grid.expand(images, -1, -1, -1))

    @abstractmethod
    def chosen(self, labels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the concepts' masks on the latent grid, ``(concepts, h, w)``, boolean.

        Args:
            labels: which region each token belongs to in each clustering, ``(clusterings, tokens)``.
            grid: height and width of the tokens' grid.
        """


@dataclass(frozen=True)
class MasksUnderPoints(MasksOfRegions):
    """The regions under the user's points, which are ``fractions`` of width and height."""

    fractions: Sequence[tuple[float, float]]

    def chosen(self, labels: Tensor, grid: tuple[int, int]) -> Tensor:
        height, width = grid
        (regions,) = labels
        under = [regions[int(y * height) * width + int(x * width)] for x, y in self.fractions]
        for index, label in enumerate(under):
            if any(label == other for other in under[:index]):
                x, y = self.fractions[index]
                raise ConductorError(
                    f"point {index + 1} (at {x:.0%} of the width, {y:.0%} of the height) falls on the same region of "
                    "the layout image as an earlier point; move it, or give masks instead of points"
                )
        tokens = torch.stack([regions == label for label in under])
        nothing = Masks(torch.zeros(1, 0, *self.latent_size, dtype=torch.bool, device=labels.device))
        return nothing.with_tokens(tokens[None]).grid[0]


@dataclass(frozen=True)
class MasksInBoxes(MasksOfRegions):
    """What of the regions lies mostly in the user's boxes, which are ``fractions`` of width and height."""

    fractions: Sequence[FractionBox]
    clusterings: ClassVar[tuple[int, ...]] = (4, 6, 8, 10, 12)  # coarse ones are whole, fine ones exact

    def chosen(self, labels: Tensor, grid: tuple[int, int]) -> Tensor:
        return masks_in_boxes(labels, grid, self.fractions, self.latent_size).unflatten(1, self.latent_size)
