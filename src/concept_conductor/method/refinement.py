"""Mask refinement, Algorithm 1: masks follow the shapes that the concepts take on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from concept_conductor.denoiser.masks import Masks, bounding_rectangle, token_grid
from concept_conductor.method.kmeans import kmeans
from concept_conductor.settings import Refinement


@dataclass(frozen=True)
class RefinedMasks:
    """The masks in use, and the two running masks of every concept that they are made from.

    Attributes:
        fused: the masks used for injection (M).
        own: each concept's mask in its own path (C), ``(images, concepts, tokens)``; None before the first
            refinement, when both start from the reference mask.
        base: each concept's mask in the base path (B), alike.
    """

    fused: Masks
    own: Tensor | None = None
    base: Tensor | None = None

    def refined(self, attention: Tensor, step: int, settings: Refinement) -> RefinedMasks:
        """Return the masks after one refinement.

        Args:
            attention: ``(paths, images, tokens, tokens)``, mask-layer probabilities, base path first.
            step: the step's index, part of the K-Means seed.
            settings: filled.
        """
        concepts = len(attention) - 1
        before = self.fused.tokens(attention.shape[-1])
        own = before if self.own is None else self.own
        base = before if self.base is None else self.base
        candidates = segment(attention, concepts, step, settings)  # (paths, images, candidates, tokens)
        grid = token_grid(attention.shape[-1], self.fused.grid.shape[-2:])
        assert settings.overlap_threshold is not None
        threshold = settings.overlap_threshold
        own = torch.stack([best_match(candidates[i + 1], own[:, i], grid, threshold) for i in range(concepts)], dim=1)
        base = torch.stack([best_match(candidates[0], base[:, i], grid, threshold) for i in range(concepts)], dim=1)
        fused = resolve_overlaps(own | base, before)
        with_tokens = self.fused.with_changed_tokens if settings.keep_outline else self.fused.with_tokens
        return replace(self, fused=with_tokens(fused), own=own, base=base)


def segment(attention: Tensor, concepts: int, step: int, settings: Refinement) -> Tensor:
    """Segment every path's attention into the clusters of every K from N+1 to 2N+1.

    Returns:
        ``(paths, images, candidates, tokens)``, boolean.
    """
    paths, images, tokens, _ = attention.shape
    ks = [k for k in range(concepts + 1, 2 * concepts + 2) if k <= tokens]
    # the seed does not depend on the image's place in the batch: an image is the same alone or among others
    seeds = torch.arange(paths).repeat_interleave(images) + 1009 * step + 1_000_033 * settings.seed
    labels = kmeans(attention.flatten(0, 1), ks, seeds=seeds, restarts=settings.restarts)
    clusters = [one_hot(labels[:, index], k).bool() for index, k in enumerate(ks)]  # (sets, tokens, k)
    return torch.cat(clusters, dim=-1).transpose(1, 2).unflatten(0, (paths, images))


def best_match(candidates: Tensor, mask: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """Return the candidate with the highest IoU with ``mask``; below ``threshold`` the mask's bounding rectangle.

    Args:
        candidates: ``(images, candidates, tokens)``.
        mask: ``(images, tokens)``, the previous value.
        grid: height and width of the tokens' grid.

    Returns:
        ``(images, tokens)``.
    """
    overlap = iou(candidates, mask)
    best = overlap.max(-1)
    matched = candidates.take_along_dim(best.indices[:, None, None], 1)[:, 0]
    rectangle = bounding_rectangle(mask.unflatten(-1, grid)).flatten(-2)
    return torch.where((best.values >= threshold)[:, None], matched, rectangle)


def iou(candidates: Tensor, mask: Tensor) -> Tensor:
    """Return the intersection over union of every candidate with ``mask``; 0 where both are empty.

    Args:
        candidates: ``(..., candidates, tokens)``, boolean.
        mask: ``(..., tokens)``, boolean.

    Returns:
        ``(..., candidates)``.
    """
    candidates, mask = candidates.float(), mask.float()
    both = (candidates @ mask[..., None])[..., 0]
    either = candidates.sum(-1) + mask.sum(-1, keepdim=True) - both
    return both / either.clamp(min=1)


def resolve_overlaps(masks: Tensor, before: Tensor) -> Tensor:
    """Give every concept the mask it had before on tokens covered by two or more masks (Algorithm 1).

    Args:
        masks, before: ``(images, concepts, tokens)``, boolean.
    """
    contested = masks.sum(1, keepdim=True) > 1
    return torch.where(contested, before, masks)
