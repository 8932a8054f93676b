"""A straightforward reference: copy the U-Net and merge a concept's weights, for every concept at every step.

This is how the method is done when one model is loaded after the other, twice in aligned steps. It is written
for comparison only and computes the same latents as the library.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from concept_conductor.backbones.base import Backbone
from concept_conductor.concepts.data import LowRank, Update
from concept_conductor.denoiser.layers import attention_layers, block_of, cross_attention_names


class Stop(Exception):
    """Carries the layout keys out of a forward."""


class OwnText:
    """Attention with a layer's own text; keeps its output, or takes in the outputs others kept."""

    def __init__(
        self,
        text: Tensor | None,
        keep: list[Tensor] | None,
        fuse: Sequence[Sequence[Tensor]],
        index: int | None,
        masks: Tensor | None,
        stop: bool,
    ) -> None:
        self.text, self.keep, self.fuse, self.index, self.masks, self.stop = text, keep, fuse, index, masks, stop
        self.inner = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if self.stop:
            raise Stop(attn.to_k(hidden_states))
        output: Tensor = self.inner(attn, hidden_states, self.text)
        if self.index is None:
            return output
        if self.keep is not None:
            self.keep.append(output)
        if self.masks is not None:
            height, width = self.masks.shape[-2:]
            factor = int((height * width / output.shape[1]) ** 0.5)
            size = (height // factor, width // factor)
            small = F.interpolate(self.masks[None].float(), size, mode="bilinear", antialias=True)[0] > 0.5
            for outputs, mask in zip(self.fuse, small, strict=True):
                output = torch.where(mask.flatten()[:, None], outputs[self.index], output)
        return output


def merge(unet: nn.Module, updates: Mapping[str, Update]) -> nn.Module:
    """A copy of the U-Net with low-rank weights merged."""
    own = copy.deepcopy(unet)
    for name, update in updates.items():
        weight = own.get_submodule(name).weight
        assert isinstance(weight, Tensor) and isinstance(update, LowRank)
        weight.data += update.up @ update.down
    return own


def equip(unet: Any, backbone: Backbone, texts: Tensor, **what: Any) -> None:
    """Put processors in: ``texts (guidance, layers, tokens, dim)``."""
    cross = {name: i for i, name in enumerate(cross_attention_names(unet))}
    blocks = backbone.defaults.injection.blocks or ()
    fused = {name: i for i, name in enumerate(name for name in attention_layers(unet) if block_of(name) in blocks)}
    stop = what.pop("stop", False)
    what = {"keep": None, "fuse": (), "masks": None, **what}
    unet.set_attn_processor(
        {
            f"{name}.processor": OwnText(
                texts[:, cross[name]] if name in cross else None,
                index=fused.get(name),
                stop=stop and name == backbone.layout_layer,
                **what,
            )
            for name in (key.removesuffix(".processor") for key in unet.attn_processors)
        }
    )


def sample(
    backbone: Backbone,
    updates: Sequence[Mapping[str, Update]],
    texts: Tensor,
    latents: Tensor,
    masks: Tensor,
    reference: Mapping[int, Tensor],
    steps: int,
    step_size: float,
    guidance_scale: float,
) -> Tensor:
    """Sample without refinement.

    Args:
        updates: for every path, the base path's (none) first.
        texts: ``(paths, guidance, layers, tokens, dim)``.
        latents: ``(1, 4, h, w)``.
        masks: ``(concepts, h, w)``, boolean.
        reference: the layout keys of the aligned steps, by their indices.
    """
    count = len(updates)
    for index, t in enumerate(backbone.timesteps(steps)):
        if index in reference:
            leaf = latents.clone().requires_grad_()
            loss = torch.zeros(())
            for path in range(count):
                model = merge(backbone.unet, updates[path]).requires_grad_(False)
                equip(model, backbone, texts[path, :1], stop=True)
                with torch.enable_grad():
                    try:
                        model(leaf, t, encoder_hidden_states=texts[path, :1, 0])
                    except Stop as stopped:
                        weight = 1.0 if path == 0 else 1.0 / (count - 1)
                        loss = loss + weight * F.mse_loss(stopped.args[0][0], reference[index])
            latents = latents - step_size * torch.autograd.grad(loss, leaf)[0]
        rows = torch.cat([latents, latents])
        kept: list[list[Tensor]] = []
        with torch.no_grad():
            for path in range(1, count):
                model = merge(backbone.unet, updates[path])
                kept.append([])
                equip(model, backbone, texts[path], keep=kept[-1])
                model(rows, t, encoder_hidden_states=texts[path, :, 0])
            model = copy.deepcopy(backbone.unet)
            # layers run in the order in which the concept paths kept their outputs
            equip(model, backbone, texts[0], fuse=kept, masks=masks)
            conditional, unconditional = model(rows, t, encoder_hidden_states=texts[0, :, 0])[0]
            noise = (unconditional + guidance_scale * (conditional - unconditional))[None]
            latents = backbone.scheduler.step(noise, t, latents, return_dict=False)[0]
    return latents
