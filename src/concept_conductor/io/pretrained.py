"""Checkpoints of the models that measure: a hub id with its revision, or a folder, and what to say when one fails."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import torch

from concept_conductor.errors import ConductorError
from concept_conductor.io.files import sha256_of


class Checkpoint(NamedTuple):
    """Where a model's weights and configuration are.

    Attributes:
        name: a hub id (``facebook/dinov2-base``) or a folder that ``save_pretrained`` wrote.
        revision: commit, tag or branch on the hub; None for its newest. Of no meaning for a folder.
    """

    name: str
    revision: str | None = None

    def load(self, kind: Any, *, local_files_only: bool = False, **options: Any) -> Any:
        """Call ``kind.from_pretrained`` with this checkpoint.

        Raises:
            ConductorError: it is not there, is damaged, or belongs to another architecture.
        """
        expected = getattr(getattr(kind, "config_class", None), "model_type", None)
        try:
            if expected is not None:
                found = self._model_type(local_files_only)
                if found != expected:
                    raise ConductorError(f"'{self.name}' is a model of the kind '{found}'; expected '{expected}'")
            return kind.from_pretrained(
                self.name, revision=self.revision or "main", local_files_only=local_files_only, **options
            )
        except ConductorError:
            raise
        # hub, disk, JSON, pickles, tensors of other shapes: the libraries raise many kinds, and nothing else happens
        except Exception as error:
            raise self._unavailable(error) from error

    def check(self, *, local_files_only: bool = False) -> None:
        """Look whether this checkpoint can be had, by its configuration alone.

        Raises:
            ConductorError: it cannot.
        """
        try:
            found = self._model_type(local_files_only)
        except Exception as error:  # as above
            raise self._unavailable(error) from error
        if found is None:
            raise ConductorError(f"'{self.name}' holds no model to measure with: its config.json names no 'model_type'")

    def file(self, name: str, *, local_files_only: bool = False) -> Path:
        """Return one file of this checkpoint, from the hub's cache where need be; itself where it is a file.

        Raises:
            ConductorError: it is not there.
        """
        place = Path(self.name)
        if os.path.exists(place):
            found = place / name if place.is_dir() else place
            if not found.is_file():
                raise ConductorError(f"the folder '{self.name}' holds no {name}")
            return found
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.name, name, revision=self.revision, local_files_only=local_files_only))
        except Exception as error:  # as above
            raise self._unavailable(error) from error

    def identity(self) -> str:
        """Return what tells this model from others in a cache: id and revision, or a hash of the files."""
        place = Path(self.name)
        if not os.path.exists(place):
            return f"{self.name}@{self.revision or 'main'}"
        digest = sha256()
        for file in sorted(file for file in place.iterdir() if file.is_file()) if place.is_dir() else [place]:
            digest.update(f"{file.name} {sha256_of(file)}\n".encode())
        return f"sha256:{digest.hexdigest()[:16]}"

    def _unavailable(self, error: Exception) -> ConductorError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return ConductorError(
            f"the measuring model '{self.name}' could not be loaded ({reason}); give a folder that holds it, or "
            "fetch it where the hub can be reached and copy its cache"
        )

    def _model_type(self, local_files_only: bool) -> str | None:
        from transformers import PretrainedConfig

        config, _ = PretrainedConfig.get_config_dict(
            self.name, revision=self.revision or "main", local_files_only=local_files_only
        )
        return config.get("model_type")


def best_device(device: str | torch.device | None) -> torch.device:
    """Return ``device``, or the GPU where there is one.

    Raises:
        ConductorError: it is no device of PyTorch's, or this machine has none of that kind.
    """
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConductorError(f"there is no device '{device}'; expected cpu, cuda, cuda:1, ...") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConductorError(f"the device '{device}' was asked for, but PyTorch sees no CUDA GPU; expected cpu")
    return chosen


def precision(device: torch.device) -> torch.dtype:
    """Return fp16 on CUDA, fp32 elsewhere."""
    return torch.float16 if device.type == "cuda" else torch.float32


def pillow_processor(name: str) -> Any:
    """Return transformers' image processor ``name`` that works with Pillow.

    It needs no torchvision, and its results do not depend on whether that is there.
    """
    import transformers

    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)  # renamed in the course of 5.x
