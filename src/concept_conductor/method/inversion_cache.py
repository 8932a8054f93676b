"""Inversions kept on disk: a safetensors file each, named by all that its content depends on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from concept_conductor.denoiser.masks import token_grid
from concept_conductor.errors import ConductorError
from concept_conductor.io.files import atomic_write, content_hash, default_cache_folder

logger = logging.getLogger(__name__)

CACHE_VERSION = "3"


@dataclass(frozen=True)
class EntryForm:
    """What an entry must look like, whoever wrote it.

    Attributes:
        steps: of the run; there are latents of each.
        aligned: indices of the steps that have layout keys.
        latents: shape of one step's latents, ``(1, channels, h, w)``.
        channels: of a layout key ``(tokens, channels)``.
        dtype: the model's number type.
    """

    steps: int
    aligned: Sequence[int]
    latents: tuple[int, ...]
    channels: int
    dtype: torch.dtype

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raise ValueError or ConductorError, naming the first tensor that is missing, over, or of a wrong shape."""
        wanted = {f"latents.{index}" for index in range(self.steps)} | {f"keys.{index}" for index in self.aligned}
        if wanted != set(shapes):
            odd = min(wanted.symmetric_difference(shapes))
            raise ValueError(f"it {'lacks' if odd in wanted else 'has a tensor'} '{odd}'")
        keys = [shape for name, shape in shapes.items() if name.startswith("keys.")]
        for name, shape in shapes.items():
            expected = self.latents if name.startswith("latents.") else (*keys[0][:1], self.channels)
            if shape != expected:
                raise ValueError(f"'{name}' has the shape {shape}, not {expected}")
        if keys:
            token_grid(keys[0][0], (self.latents[2], self.latents[3]))

    def check_numbers(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise ValueError where numbers are of another type than the model's, or none at all."""
        for name, tensor in tensors.items():
            if tensor.dtype not in (self.dtype, torch.float32):
                raise ValueError(f"'{name}' holds {tensor.dtype}, not {self.dtype}")
            if not tensor.isfinite().all():
                raise ValueError(f"'{name}' holds infinite numbers")


@dataclass(frozen=True)
class InversionCache:
    """One entry of the cache.

    Attributes:
        file: where it is, or will be.
        form: what it must look like.
    """

    file: Path
    form: EntryForm

    @classmethod
    def open(cls, where: Literal[True] | Path, key: Iterable[str], pixels: Tensor, form: EntryForm) -> InversionCache:
        """Return the entry of one inversion, whether it is there or not.

        Args:
            where: True for the user's cache folder, or a folder.
            key: all that the inversion depends on besides the image.
            pixels: the image, ``(1, 3, H, W)`` in -1..1.
            form: what the entry must look like.
        """
        digest = sha256()
        for part in (CACHE_VERSION, *key):
            digest.update(part.encode(errors="surrogatepass") + b"\0")
        digest.update(pixels.float().cpu().contiguous().numpy().tobytes())
        folder = default_cache_folder() if where is True else where
        return cls(folder / f"{digest.hexdigest()}.safetensors", form)

    def read(self, device: torch.device, dtype: torch.dtype) -> tuple[dict[int, Tensor], dict[int, Tensor]] | None:
        """Return latents and layout keys by step index; None where there is no usable entry, which is said.

        An entry's hash shows damage, not who wrote it: a folder that came from elsewhere can hold anything. So an
        entry must also say that it is of this very inversion, and be of the form that this one has.
        """
        try:
            if not self.file.is_file():
                return None
            with safe_open(self.file, "pt") as entry:
                names = list(entry.keys())
                # before anything is loaded, which may be large
                self.form.check_shapes({name: tuple(entry.get_slice(name).get_shape()) for name in names})
                tensors, metadata = {name: entry.get_tensor(name) for name in names}, entry.metadata() or {}
            if metadata.get("sha256") != self._sha256(tensors):
                raise ValueError("its content, or the inversion that it is of, is not what its hash says")
            self.form.check_numbers(tensors)
        except (SafetensorError, ValueError, OSError, RuntimeError) as error:
            logger.warning("the inversion cache entry %s is damaged (%s); it is computed anew", self.file, error)
            return None
        parts: dict[str, dict[int, Tensor]] = {"latents": {}, "keys": {}}
        for name, tensor in tensors.items():
            kind, index = name.split(".")
            parts[kind][int(index)] = tensor.to(device, dtype)
        return parts["latents"], parts["keys"]

    def write(self, latents: Mapping[int, Tensor], keys: Mapping[int, Tensor]) -> None:
        """Keep an inversion; the file appears whole or not at all, and a full disk does not end the run."""
        tensors = {f"latents.{index}": z.cpu().contiguous() for index, z in latents.items()}
        tensors |= {f"keys.{index}": k.cpu().contiguous() for index, k in keys.items()}
        try:
            with atomic_write(self.file) as entry:
                entry.write(save(tensors, metadata={"sha256": self._sha256(tensors)}))
        except (OSError, ConductorError) as error:
            logger.warning("the inversion could not be cached in %s (%s)", self.file.parent, error)

    def _sha256(self, tensors: dict[str, Tensor]) -> str:
        """Return a hash of an entry's content and of the inversion that it is of."""
        return sha256(f"{self.file.stem} {content_hash(tensors)}".encode()).hexdigest()
