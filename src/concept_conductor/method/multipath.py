"""Multipath forwards, Figure 3: put all paths into one U-Net, and take them out again, also on errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.data import Update
from concept_conductor.denoiser.attention import LayoutReached, MultipathProcessor, Role
from concept_conductor.denoiser.checkpointing import checkpointed
from concept_conductor.denoiser.exclusive import exclusive
from concept_conductor.denoiser.layers import (
    attention_layers,
    block_of,
    cross_attention_names,
    self_attention,
    unwrap_compiled,
)
from concept_conductor.denoiser.lora import pathwise
from concept_conductor.denoiser.paths import AttentionRecord, Forward, Fusion, Paths
from concept_conductor.denoiser.text_cache import cached_text_kv
from concept_conductor.errors import ConductorError

if TYPE_CHECKING:
    from concept_conductor.backbones.base import Backbone
    from concept_conductor.backbones.defaults import Defaults


class Multipath:
    """Run a U-Net with all paths inside; made by :func:`multipath`.

    Attributes:
        count: number of paths, the base path and one per concept.
        paths_per_forward: at most this many paths share one forward.
    """

    def __init__(self, backbone: Backbone, paths: Paths, count: int, paths_per_forward: int | None) -> None:
        self.backbone = backbone
        self.count = count
        self.paths_per_forward = paths_per_forward or count
        self._paths = paths
        self._remembered: list[tuple[Conditioning, int, dict[str, Tensor]]] = []

    def chunks(self) -> list[slice]:
        """Return runs of consecutive paths, one forward each: concept paths first, the base path in the last."""
        starts = range(0, self.count, self.paths_per_forward)
        return [slice(start, min(start + self.paths_per_forward, self.count)) for start in reversed(starts)]

    def predict(
        self,
        latents: Tensor,
        t: Tensor,
        text: Conditioning,
        chunk: slice,
        fusion: Fusion | None,
        recording: AttentionRecord | None = None,
    ) -> Tensor:
        """Predict with the paths of ``chunk`` from the same latents (Figure 3).

        Args:
            latents: ``(images, 4, h, w)``.
            t: the timestep, a scalar.
            text: conditioning of all paths.
            chunk: which paths.
            fusion: inject concepts (Eq. 4) or, with None, leave every path alone.
            recording: given what this forward computes, for a look inside.

        Returns:
            ``(paths, guidance, images, 4, h, w)``.

        Raises:
            torch.OutOfMemoryError: the sentence says what would need less.
        """
        remembered = self._of_texts(text, chunk, len(latents))
        forward = Forward(
            chunk, text.texts[chunk], len(latents), fusion=fusion, recording=recording, remembered=remembered
        )
        prediction = forward.by_path(self._run(self.backbone.unet, latents, t, text, forward))
        if recording is not None:
            recording.predictions.append(prediction)
        return prediction

    def layout_keys(
        self, latents: Tensor, t: Tensor, text: Conditioning, chunk: slice, gradient_checkpointing: bool = False
    ) -> Tensor:
        """Compute the layout features of the conditional rows, and nothing later in the U-Net.

        Args:
            latents: ``(images, 4, h, w)``; gradients reach them.
            t: a timestep, or one for each image ``(images,)``.
            gradient_checkpointing: compute activations again for the gradient instead of keeping them.

        Returns:
            ``(paths, images, tokens, channels)``.
        """
        text = text.conditional
        remembered = self._of_texts(text, chunk, len(latents))
        forward = Forward(chunk, text.texts[chunk], len(latents), stop_at_layout=True, remembered=remembered)
        unet = unwrap_compiled(self.backbone.unet)  # a compiled U-Net could not be left half way
        last = unet.get_submodule(self.backbone.layout_layer)
        wanted = gradient_checkpointing or bool(getattr(unet, "is_gradient_checkpointing", False))
        try:
            with checkpointed(unet, self._paths, last) if wanted else nullcontext():
                self._run(unet, latents, t, text, forward)
        except LayoutReached as reached:
            return forward.by_path(reached.keys)[:, 0]
        raise RuntimeError("the forward ended without passing the layout layer")

    def _of_texts(self, text: Conditioning, chunk: slice, images: int) -> dict[str, Tensor] | None:
        """What earlier forwards of as many images made of the same texts, for this one to use and to add to."""
        if len(text.texts[chunk]) < len(text.texts):
            return None  # memory is short: kept for every chunk it would be as much as all at once
        for known, count, remembered in self._remembered:
            if known is text and count == images:
                return remembered
        # the last three: a step has a forward with the unconditional texts, aligned one without, traced the reference's
        self._remembered = [*self._remembered[-2:], (text, images, {})]
        return self._remembered[-1][-1]

    def _run(self, unet: torch.nn.Module, latents: Tensor, t: Tensor, text: Conditioning, forward: Forward) -> Tensor:
        paths, guidance = forward.texts.shape[:2]
        rows = latents.repeat(paths * guidance, 1, 1, 1)
        timestep = t.repeat(paths * guidance) if t.ndim else t
        added = self.backbone.added_conditioning(text, forward.present, forward.images, rows.shape[-2:])
        try:
            with self._paths.running(forward):
                output: Tensor = unet(
                    rows, timestep, encoder_hidden_states=forward.rows_of_text(0), return_dict=False, **added
                )[0]
        except torch.OutOfMemoryError as error:
            ways = "set paths_per_forward=1, make smaller or fewer images at once"
            if self.paths_per_forward == 1:
                ways = "make smaller or fewer images at once, or use fewer concepts"
            raise torch.OutOfMemoryError(f"the GPU ran out of memory; {ways} ({error})") from error
        return output


@contextmanager
def multipath(
    backbone: Backbone, updates: Sequence[Mapping[str, Update]], paths_per_forward: int | None = None
) -> Iterator[Multipath]:
    """Let the U-Net run all paths inside this context (Figure 3); afterwards it is what it was.

    Args:
        backbone: the model; its layout and mask layers are used.
        updates: each path's low-rank weights, the base path's (none) first.
        paths_per_forward: None for all at once, k for at most k paths in one forward.

    Raises:
        BusyError: another sampler is in this U-Net already.
        ConductorError: the U-Net's attention processors or layers do not fit.
    """
    unet = unwrap_compiled(backbone.unet)
    assert isinstance(unet, UNet2DConditionModel)
    with exclusive(unet):
        before = dict(unet.attn_processors)
        paths = Paths()
        processors = wrap(unet, backbone.defaults, paths)
        try:
            with pathwise(unet, updates, paths), cached_text_kv(unet, paths):
                unet.set_attn_processor(dict(processors))  # a copy: set_attn_processor empties what it is given
                yield Multipath(backbone, paths, len(updates), paths_per_forward)
        finally:
            unet.set_attn_processor(before)


def wrap(unet: UNet2DConditionModel, layers: Defaults, paths: Paths) -> dict[str, MultipathProcessor]:
    """A processor for every attention layer, wrapping the one that is there; ``layers`` names those with a role."""
    self_attention(unet, layers.layout_layer, "layout layer")
    self_attention(unet, layers.mask_layer, "mask layer")
    texts = {name: index for index, name in enumerate(cross_attention_names(unet))}
    wrapped = {}
    for index, (name, layer) in enumerate(attention_layers(unet).items()):
        inner = layer.processor
        if "IPAdapter" in type(inner).__name__:
            raise ConductorError(
                "the U-Net has IP-Adapter attention, which the method cannot run; call unload_ip_adapter() first"
            )
        if "FusedAttn" in type(inner).__name__:
            raise ConductorError(
                "the U-Net's attention projections are fused, so that concepts' weights would have no effect; call "
                "unfuse_qkv_projections() first"
            )
        roles = (name == layer for layer in (layers.layout_layer, layers.mask_layer, layers.word_layer))
        role = Role(index, block_of(name), texts.get(name), *roles)
        wrapped[f"{name}.processor"] = MultipathProcessor(inner, role, paths)
    return wrapped
