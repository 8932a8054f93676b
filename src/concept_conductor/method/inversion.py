"""DDIM inversion of the layout reference, and its layout features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.layers import unwrap_compiled
from concept_conductor.errors import ConductorError
from concept_conductor.method.inversion_cache import EntryForm, InversionCache
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Inversion

#: Called with the number of inversion steps done and to do.
Progress = Callable[[int, int], None]

BASE_PATH = slice(0, 1)


@dataclass(frozen=True)
class InversionSource:
    """An image to invert.

    Attributes:
        pixels: ``(1, 3, H, W)`` in -1..1, at the size of the run.
        prompt: what it shows.
        text: the prompt's conditioning in the base path.
        model: a hash of the model that inverts it; None where inversions are not cached.
    """

    pixels: Tensor
    prompt: str
    text: Conditioning
    model: str | None

    def same_as(self, other: InversionSource) -> bool:
        """Whether both have one inversion."""
        return self.prompt == other.prompt and torch.equal(self.pixels, other.pixels)


@dataclass(frozen=True)
class Inverted:
    """An inverted image.

    Attributes:
        source: the image.
        latents: step's index -> the image's latents at that step's timestep, ``(1, 4, h, w)``.
        keys: step's index -> layout feature ``(tokens, channels)``, of the steps that alignment needs.
    """

    source: InversionSource
    latents: Mapping[int, Tensor]
    keys: Mapping[int, Tensor]


def invert(
    paths: Multipath,
    source: InversionSource,
    timesteps: Tensor,
    aligned: Iterable[int],
    settings: Inversion,
    progress: Progress | None = None,
) -> Inverted:
    """Compute an image's latents at all timesteps of a run, and its layout features at the aligned ones.

    Conditional only, base path, source prompt. Everything depends on model, image, prompt, size and schedule
    alone, so it is kept on disk; a damaged cache entry is said and computed anew.

    Args:
        paths: the U-Net with all paths inside; only the base path runs.
        source: the image.
        timesteps: all timesteps of the run, most noisy first.
        aligned: the indices of the steps at which alignment needs features.
        settings: number of steps, and where to cache.
        progress: told how far the inversion is.

    Raises:
        ConductorError: ``settings.steps`` does not visit every timestep.
    """
    backbone, needed, aligned = paths.backbone, [int(t) for t in timesteps], sorted(aligned)
    check_visits(backbone, settings.steps, needed)
    cache = None
    if settings.cache is not False and source.model is not None:
        # by timestep, not by index: what is kept does not depend on how a run counts its steps
        shapes = (tuple(source.pixels.shape), tuple(source.text.texts.shape))
        content = repr((*shapes, needed, [needed[index] for index in aligned], settings.steps))
        key = (source.model, backbone.layout_layer, str(backbone.dtype), source.prompt, content)
        cache = InversionCache.open(settings.cache, key, source.pixels, entry_form(paths, source, needed, aligned))
        if (cached := cache.read(backbone.device, backbone.dtype)) is not None:
            return Inverted(source, *cached)
    latents = inverted_latents(paths, source, needed, settings.steps, progress)
    keys = layout_features(paths, source.text, latents, timesteps, aligned)
    if cache is not None:
        cache.write(latents, keys)
    return Inverted(source, latents, keys)


def entry_form(paths: Multipath, source: InversionSource, needed: Sequence[int], aligned: Sequence[int]) -> EntryForm:
    """Return what an inversion kept on disk must look like."""
    backbone = paths.backbone
    unet: Any = unwrap_compiled(backbone.unet)
    size = [side // backbone.vae_factor for side in source.pixels.shape[-2:]]
    channels = int(unet.get_submodule(backbone.layout_layer).inner_kv_dim)
    return EntryForm(len(needed), aligned, (1, int(unet.config.in_channels), *size), channels, backbone.dtype)


def inverted_latents(
    paths: Multipath, source: InversionSource, needed: list[int], steps: int, progress: Progress | None
) -> dict[int, Tensor]:
    """Run DDIM backwards from the image; return its latents at the ``needed`` timesteps by their indices."""
    backbone, scheduler = paths.backbone, paths.backbone.inverse_scheduler
    scheduler.set_timesteps(steps, device=backbone.device)
    visited = [t for t in scheduler.timesteps if int(t) <= max(needed)]
    latents, text = backbone.encode_image(source.pixels), source.text.conditional
    indices, kept = {t: index for index, t in enumerate(needed)}, {}
    for done, t in enumerate(visited, start=1):
        prediction = paths.predict(latents, t, text, BASE_PATH, fusion=None)[0, 0]
        latents = scheduler.step(backbone.to_epsilon(latents, prediction, t), t, latents).prev_sample
        if int(t) in indices:
            kept[indices[int(t)]] = latents
        if progress is not None:
            progress(done, len(visited))
    return kept


def layout_features(
    paths: Multipath, text: Conditioning, latents: Mapping[int, Tensor], timesteps: Tensor, aligned: list[int]
) -> dict[int, Tensor]:
    """Compute the base path's layout keys of each aligned step, in forwards no wider than those of such a step."""
    keys: dict[int, Tensor] = {}
    for start in range(0, len(aligned), paths.paths_per_forward):
        some = aligned[start : start + paths.paths_per_forward]
        batch = paths.layout_keys(torch.cat([latents[index] for index in some]), timesteps[some], text, BASE_PATH)[0]
        keys.update(zip(some, batch, strict=True))
    return keys


def visited_timesteps(backbone: Backbone, steps: int) -> list[int]:
    """Return the timesteps that an inversion of ``steps`` steps visits."""
    config = backbone.scheduler.config
    ratio = config.num_train_timesteps // steps
    return [k * ratio + config.steps_offset for k in range(steps)]


def check_visits(backbone: Backbone, steps: int, needed: list[int]) -> None:
    """Raise ConductorError unless the inversion visits every timestep that sampling needs."""
    trained = backbone.scheduler.config.num_train_timesteps

    def fits(count: int) -> bool:
        visited = visited_timesteps(backbone, count)
        return visited[-1] < trained and set(needed) <= set(visited)

    if 1 <= steps < trained and fits(steps):
        return
    good = [count for count in range(1, trained) if fits(count)]
    listed = ", ".join(map(str, good if len(good) <= 6 else [*good[:3], "...", *good[-2:]]))
    raise ConductorError(
        f"Inversion(steps={steps}) does not visit every timestep that {len(needed)} sampling steps need; "
        f"values that do: {listed or 'none, choose another number of sampling steps'}"
    )
