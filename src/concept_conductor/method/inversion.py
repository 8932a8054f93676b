"""DDIM inversion of the layout reference, its layout features, and their cache on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.errors import ConductorError
from concept_conductor.io.files import atomic_write, content_hash, default_cache_folder
from concept_conductor.method.multipath import Multipath
from concept_conductor.settings import Inversion

logger = logging.getLogger(__name__)

#: Called with the number of inversion steps done and to do.
Progress = Callable[[int, int], None]

BASE_PATH = slice(0, 1)
CACHE_VERSION = "1"


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
        latents: timestep -> ``(1, 4, h, w)``.
        keys: timestep -> layout feature ``(tokens, channels)``, for the timesteps that alignment needs.
        text: the conditioning it was inverted with.
    """

    latents: dict[int, Tensor]
    keys: dict[int, Tensor]
    text: Conditioning


def invert(
    paths: Multipath,
    source: InversionSource,
    timesteps: Tensor,
    aligned: Iterable[int],
    settings: Inversion,
    progress: Progress | None = None,
) -> Inverted:
    """Latents of ``source`` at all timesteps of a run, and its layout features at the aligned ones.

    Conditional only, base path, source prompt. Everything depends on model, image, prompt, size and schedule
    alone, so it is kept on disk; a damaged cache entry is said and computed anew.

    Args:
        paths: the U-Net with all paths inside; only the base path runs.
        source: the image.
        timesteps: all timesteps of the run.
        aligned: the timesteps at which alignment needs features.
        settings: number of steps, and where to cache.
        progress: told how far the inversion is.

    Raises:
        ConductorError: ``settings.steps`` does not visit every timestep.
    """
    backbone = paths.backbone
    needed, aligned = [int(t) for t in timesteps], [int(t) for t in aligned]
    check_visits(backbone, settings.steps, needed)
    cache = Cache.open(settings.cache, backbone, source, needed, aligned, settings.steps)
    if cache is not None and (cached := cache.read(source.text, backbone.device, backbone.dtype)) is not None:
        return cached
    latents = inverted_latents(paths, source, needed, settings.steps, progress)
    inverted = Inverted(latents, layout_features(paths, source.text, latents, aligned), source.text)
    if cache is not None:
        cache.write(inverted)
    return inverted


def inverted_latents(
    paths: Multipath, source: InversionSource, needed: list[int], steps: int, progress: Progress | None
) -> dict[int, Tensor]:
    """Run DDIM backwards from the image and keep the latents of the ``needed`` timesteps."""
    backbone, scheduler = paths.backbone, paths.backbone.inverse_scheduler
    scheduler.set_timesteps(steps, device=backbone.device)
    visited = [t for t in scheduler.timesteps if int(t) <= max(needed)]
    latents = backbone.encode_image(source.pixels)
    text = source.text.conditional
    kept = {}
    for done, t in enumerate(visited, start=1):
        prediction = paths.predict(latents, t, text, BASE_PATH, fusion=None)[0, 0]
        noise = backbone.to_epsilon(latents, prediction, t)
        latents = scheduler.step(noise, t, latents).prev_sample
        if int(t) in needed:
            kept[int(t)] = latents
        if progress is not None:
            progress(done, len(visited))
    return kept


def layout_features(
    paths: Multipath, text: Conditioning, latents: dict[int, Tensor], aligned: list[int]
) -> dict[int, Tensor]:
    """The base path's layout keys of each aligned timestep, in forwards no wider than those of an aligned step."""
    keys: dict[int, Tensor] = {}
    for start in range(0, len(aligned), paths.paths_per_forward):
        some = aligned[start : start + paths.paths_per_forward]
        t = torch.tensor(some, device=paths.backbone.device)
        batch = paths.layout_keys(torch.cat([latents[step] for step in some]), t, text, BASE_PATH)[0]
        keys.update(zip(some, batch, strict=True))
    return keys


def visited_timesteps(backbone: Backbone, steps: int) -> list[int]:
    """The timesteps that an inversion of ``steps`` steps visits."""
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


@dataclass(frozen=True)
class Cache:
    """One entry of the inversion cache: a safetensors file named by all that the content depends on."""

    file: Path

    @classmethod
    def open(
        cls,
        where: bool | Path,
        backbone: Backbone,
        source: InversionSource,
        needed: list[int],
        aligned: list[int],
        steps: int,
    ) -> Cache | None:
        """The entry for this inversion, or None where caching is off."""
        if where is False or source.model is None:
            return None
        folder = default_cache_folder() if where is True else Path(where)
        digest = sha256()
        for part in (
            CACHE_VERSION,
            source.model,
            backbone.layout_layer,
            str(backbone.dtype),
            source.prompt,
            repr((tuple(source.pixels.shape), needed, aligned, steps)),
        ):
            digest.update(part.encode() + b"\0")
        digest.update(source.pixels.float().cpu().contiguous().numpy().tobytes())
        return cls(folder / f"{digest.hexdigest()}.safetensors")

    def read(self, text: Conditioning, device: torch.device, dtype: torch.dtype) -> Inverted | None:
        """The cached inversion; None where there is none or where it is damaged (then it is removed)."""
        if not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as entry:
                tensors = {name: entry.get_tensor(name) for name in entry.keys()}  # noqa: SIM118 - not a dict
                if (entry.metadata() or {}).get("sha256") != content_hash(tensors):
                    raise ValueError("its content does not have the hash it names")
        except (SafetensorError, ValueError, OSError) as error:
            logger.warning("the inversion cache entry %s is damaged (%s); it is computed anew", self.file, error)
            return None
        parts: dict[str, dict[int, Tensor]] = {"latents": {}, "keys": {}}
        for name, tensor in tensors.items():
            kind, t = name.split(".")
            parts[kind][int(t)] = tensor.to(device, dtype)
        return Inverted(**parts, text=text)

    def write(self, inverted: Inverted) -> None:
        """Keep an inversion; the file appears whole or not at all, and a full disk does not end the run."""
        tensors = {f"latents.{t}": z.cpu().contiguous() for t, z in inverted.latents.items()}
        tensors |= {f"keys.{t}": k.cpu().contiguous() for t, k in inverted.keys.items()}
        try:
            with atomic_write(self.file) as entry:
                entry.write(save(tensors, metadata={"sha256": content_hash(tensors)}))
        except (OSError, ConductorError) as error:
            logger.warning("the inversion could not be cached in %s (%s)", self.file.parent, error)
