"""Which rows of a forward belong to which path, and what this forward is for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from concept_conductor.denoiser.masks import Masks
    from concept_conductor.settings import Block, Injection


@dataclass
class Fusion:
    """Feature fusion of one denoising step, Eq. 4: what the concept paths computed enters the base path.

    Attributes:
        masks: where each concept is injected.
        layers: which attention layers are fused.
        record: also record the mask layer's self-attention probabilities.
        kept: concept features of chunks already run, by attention layer, in path order.
        attention: recorded probabilities ``(paths, images, tokens, tokens)``, the last chunk's last.
    """

    masks: Masks
    layers: Injection
    record: bool
    kept: dict[int, list[Tensor]] = field(default_factory=dict)
    attention: list[Tensor] = field(default_factory=list)


@dataclass
class AttentionRecord:
    """Hold what one step's forwards computed: an entry for each chunk of paths, the base path's last.

    Attributes:
        predictions: what the U-Net predicted, each ``(paths, guidance, images, 4, h, w)``.
        self_attention: probabilities of the mask layer's conditional rows, ``(paths, images, tokens, tokens)``.
        cross_attention: those of the word layer, ``(paths, images, tokens, text tokens)``.
    """

    predictions: list[Tensor] = field(default_factory=list)
    self_attention: list[Tensor] = field(default_factory=list)
    cross_attention: list[Tensor] = field(default_factory=list)


@dataclass
class Forward:
    """One forward pass of the U-Net over a run of consecutive paths.

    Rows are path-major: ``(paths, guidance, images)``, guidance being conditional then unconditional.

    Attributes:
        present: the paths in this forward.
        texts: ``(paths, guidance, layers, tokens, dim)`` of those paths.
        images: rows per path and guidance half.
        stop_at_layout: end the forward at the layout layer's keys.
        fusion: inject and record, or leave the attention alone.
        recording: keep what is computed for a look inside; None for no look.
        remembered: what follows from the texts alone, kept from one forward to the next; None keeps nothing.
    """

    present: slice
    texts: Tensor
    images: int
    stop_at_layout: bool = False
    fusion: Fusion | None = None
    recording: AttentionRecord | None = None
    remembered: dict[str, Tensor] | None = None

    def rows_of_text(self, layer: int) -> Tensor:
        """Return the texts of cross-attention layer ``layer`` for every row, ``(rows, tokens, dim)``."""
        text = self.texts[:, :, layer, None]  # (paths, guidance, 1, tokens, dim)
        paths, guidance, _, tokens, dim = text.shape
        return text.expand(-1, -1, self.images, -1, -1).reshape(paths * guidance * self.images, tokens, dim)

    def remember(self, what: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return what ``compute`` makes of the texts: computed at the first step, kept for all others."""
        # a compiled graph computes it at every step: kept, its tensors would be overwritten where graphs are replayed
        if self.remembered is None or torch.compiler.is_compiling():
            return compute()
        if what not in self.remembered:
            with torch.no_grad():  # gradients are the latents', and later steps need no graph of this one's
                self.remembered[what] = compute()
        return self.remembered[what]

    def by_path(self, rows: Tensor) -> Tensor:
        """View ``(rows, ...)`` as ``(paths, guidance, images, ...)``."""
        return rows.unflatten(0, (*self.texts.shape[:2], self.images))

    def fuse(self, layer: int, output: Tensor, block: Block, *, cross_attention: bool) -> Tensor:
        """Apply Eq. 4 at one attention layer: ``f_0 <- f_0 (1 - M_i) + f_i M_i`` for every concept in order.

        Where masks overlap the later concept wins. Concept paths keep their own features. If the base path
        comes in a later forward, the concepts' features are kept for it.

        Args:
            layer: position among the attention layers.
            output: ``(rows, tokens, channels)`` after the output projection, before the residual.
            block: the part of the U-Net it is in.
            cross_attention: what kind of layer it is.
        """
        fusion = self.fusion
        if fusion is None or not fusion.layers.fuses(block, cross_attention=cross_attention):
            return output
        features = self.by_path(output)  # (paths, guidance, images, tokens, channels)
        if self.present.start > 0:
            fusion.kept[layer] = [*features, *fusion.kept.get(layer, ())]
            return output
        concepts = [*features[1:], *fusion.kept.pop(layer, ())]
        if not concepts:
            return output
        masks = fusion.masks.tokens(output.shape[1])[..., None]  # (images, concepts, tokens, 1)
        base = features[0]
        for feature, mask in zip(concepts, masks.unbind(1), strict=True):
            # in place: the output is the inner processor's own, and no gradient flows here
            torch.where(mask, feature, base, out=base)
        return output


class Paths:
    """The state all layers share; ``forward`` is set only while a forward runs."""

    def __init__(self) -> None:
        self._forward: Forward | None = None

    @property
    def forward(self) -> Forward:
        if self._forward is None:
            raise RuntimeError("the U-Net was called outside of a multipath forward")
        return self._forward

    @property
    def present(self) -> slice:
        return self.forward.present

    @contextmanager
    def running(self, forward: Forward) -> Iterator[Forward]:
        """Let the layers see ``forward`` while the U-Net, or a part of it again, runs."""
        before, self._forward = self._forward, forward
        try:
            yield forward
        finally:
            self._forward = before


class PathRows(Protocol):
    """Tells a layer which paths the rows of the present forward belong to, in equal shares."""

    @property
    def present(self) -> slice: ...


class AllRows:
    """Every row belongs to the one and only path."""

    present = slice(0, 1)
