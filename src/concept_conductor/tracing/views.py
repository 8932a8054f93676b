"""What a step showed, brought to the CPU: images, clusters, heat maps and masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.denoiser.masks import token_grid
from concept_conductor.io.drawing import thumbnail
from concept_conductor.io.tensors import to_images
from concept_conductor.method.kmeans import kmeans
from concept_conductor.method.refinement import RefinedMasks
from concept_conductor.method.sampling import Step
from concept_conductor.method.snapshot import Snapshot
from concept_conductor.tracing.traced_paths import TracedPath

#: Longest side of a traced image; small ones grow to at least half of it.
SIDE = 256


@dataclass(frozen=True, eq=False)
class PathView:
    """What one path, or the reference, showed at one step.

    Attributes:
        path: which.
        clean: the clean image it predicts.
        clusters: of the mask layer's self-attention, ``(h, w)``; a place keeps its number from step to step.
        heat: maps of :meth:`.TracedPath.heat`, ``(maps, h, w)``.
    """

    path: TracedPath
    clean: Image.Image
    clusters: NDArray[np.uint8]
    heat: NDArray[np.float32]


@dataclass(frozen=True)
class MaskView:
    """The first image's masks after a refinement, each ``(concepts, h, w)``, boolean.

    Attributes:
        base: B, in the base path.
        own: C, each in its concept's own path.
        fused: M, on the latent grid.
    """

    base: NDArray[np.bool_]
    own: NDArray[np.bool_]
    fused: NDArray[np.bool_]


@dataclass(frozen=True)
class StepView:
    """What the first image of a run showed at one step.

    Attributes:
        index, timestep: which step.
        reference: the layout reference; None where the run has none.
        paths: those that ran, the base path first.
        masks: used from the next step on, ``(concepts, h, w)``, boolean, on the latent grid.
        refined: what they were made from, where this step refined them.
    """

    index: int
    timestep: int
    reference: PathView | None
    paths: tuple[PathView, ...]
    masks: NDArray[np.bool_]
    refined: MaskView | None

    @property
    def rows(self) -> tuple[PathView, ...]:
        """The reference, if there is one, and all paths."""
        return self.paths if self.reference is None else (self.reference, *self.paths)


@dataclass
class Viewer:
    """Makes views of steps; remembers how clusters were numbered.

    Attributes:
        backbone: the model, which decodes.
        reference: the layout reference, if the run has one.
        paths: all paths, the base path first.
        clusters: K.
    """

    backbone: Backbone
    reference: TracedPath | None
    paths: Sequence[TracedPath]
    clusters: int
    _before: dict[TracedPath, NDArray[np.uint8]] = field(default_factory=dict)

    def view(self, step: Step) -> StepView:
        """Return what ``step``, which was looked into, showed."""
        assert step.snapshot is not None
        reference = None
        if step.snapshot.reference is not None and self.reference is not None:
            (reference,) = self._path_views(step, step.snapshot.reference, [self.reference])
        paths = self._path_views(step, step.snapshot, self.paths)
        masks: NDArray[np.bool_] = step.masks.fused.grid[0].cpu().numpy()
        refined = mask_view(step.masks) if step.refined else None
        return StepView(step.index, step.timestep, reference, paths, masks, refined)

    def _path_views(self, step: Step, seen: Snapshot, paths: Sequence[TracedPath]) -> tuple[PathView, ...]:
        size = step.latents.shape[-2:]
        # a run that goes astray gives no numbers any more; it is not the look inside that should stop it
        labels = self._labels(seen.self_attention[:, 0].nan_to_num())
        attention = seen.cross_attention[:, 0].nan_to_num().cpu().numpy()
        views = []
        for path, clean, own, text in zip(paths, seen.clean[:, :1], labels, attention):
            clusters = own.reshape(token_grid(len(own), size))
            # a path's own clusters of the step before; in the first step another path's, so that all agree
            before = self._before.get(path, next(iter(self._before.values()), clusters))
            self._before[path] = clusters = renumbered(clusters, before, self.clusters)
            heat = path.heat(text).reshape(-1, *token_grid(len(text), size))
            views.append(PathView(path, thumbnail(self._decoded(clean), SIDE), clusters, heat))
        return tuple(views)

    def _labels(self, attention: Tensor) -> NDArray[np.uint8]:
        """Cluster every path's attention ``(paths, tokens, tokens)``; return ``(paths, tokens)``."""
        count = min(self.clusters, attention.shape[1])
        seeds = torch.zeros(len(attention), dtype=torch.long)  # the same starts in all steps, so that they look alike
        return kmeans(attention, [count], seeds=seeds)[:, 0].cpu().numpy().astype(np.uint8)

    def _decoded(self, latents: Tensor) -> Image.Image:
        pixels = self.backbone.decode_latents(latents)[0].nan_to_num()  # half precision may overflow in early steps
        return to_images(pixels[None])[0]


def renumbered(labels: NDArray[np.uint8], before: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Number the clusters ``labels`` as those in ``before`` that they share most places with."""
    shared = np.zeros((count, count), dtype=np.int64)
    np.add.at(shared, (labels.ravel(), before.ravel()), 1)
    numbers = np.zeros(count, dtype=np.uint8)
    for _ in range(count):
        new, old = np.unravel_index(shared.argmax(), shared.shape)
        numbers[new] = old
        shared[new, :] = shared[:, old] = -1
    renamed: NDArray[np.uint8] = numbers[labels]
    return renamed


def mask_view(refined: RefinedMasks) -> MaskView:
    """Return the first image's masks after a refinement."""
    assert refined.own is not None and refined.base is not None
    fused: NDArray[np.bool_] = refined.fused.grid[0].cpu().numpy()
    own, base = (
        masks[0].unflatten(-1, token_grid(masks.shape[-1], refined.fused.grid.shape[-2:])).cpu().numpy()
        for masks in (refined.own, refined.base)
    )
    return MaskView(base, own, fused)
