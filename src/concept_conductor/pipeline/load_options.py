"""What a model's loaders can be asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from concept_conductor.backbones.scheduler_config import PREDICTIONS
from concept_conductor.errors import ConductorError
from concept_conductor.pipeline.model_index import CLASSES

#: What huggingface_hub understands of a loader's arguments.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")
#: Parts that a model can be without.
OPTIONAL = ("safety_checker", "feature_extractor", "image_encoder")
#: What is always so, and may be asked for.
GRANTED = ("low_cpu_mem_usage", "requires_safety_checker", "add_watermarker")


@dataclass(frozen=True)
class LoadOptions:
    """What ``from_pretrained`` and ``from_single_file`` were asked for.

    Attributes:
        dtypes: part -> number type, "default" for the others.
        hub: for huggingface_hub.
        given: parts that the caller has made; None for one to leave out.
        variant, use_safetensors: which of a folder's weight files.
        prediction_type: instead of the model's own.
        force_zeros: instead of the model's own ``force_zeros_for_empty_prompt``.
        config: whose configuration a single file has: a folder or hub id.
    """

    dtypes: Mapping[str, torch.dtype]
    hub: Mapping[str, Any]
    given: Mapping[str, Any]
    variant: str | None = None
    use_safetensors: bool | None = None
    prediction_type: str | None = None
    force_zeros: bool | None = None
    config: str | None = None

    @classmethod
    def of(cls, kwargs: Mapping[str, Any]) -> LoadOptions:
        """Read a loader's keyword arguments.

        Raises:
            ConductorError: one is not known, or is none of the values that it may have.
        """
        rest = {name: value for name, value in kwargs.items() if name not in GRANTED}
        hub = {name: rest.pop(name) for name in HUB_OPTIONS if name in rest}
        given = {name: rest.pop(name) for name in CLASSES if name in rest}
        if missing := next((name for name, part in given.items() if part is None and name not in OPTIONAL), None):
            raise ConductorError(f"a model cannot be without '{missing}'; leave it out to load the model's own")
        dtype = rest.pop("dtype", None) or rest.pop("torch_dtype", None) or torch.float32
        rest.pop("torch_dtype", None)
        dtypes = dtype if isinstance(dtype, Mapping) else {"default": dtype}
        if not all(isinstance(value, torch.dtype) and value.is_floating_point for value in dtypes.values()):
            raise ConductorError(f"torch_dtype is {dtype!r:.60}; expected a number type such as torch.float16")
        options = {
            "variant": rest.pop("variant", None),
            "use_safetensors": rest.pop("use_safetensors", None),
            "prediction_type": checked_prediction(rest.pop("prediction_type", None)),
            "force_zeros": rest.pop("force_zeros_for_empty_prompt", None),
            "config": None if (config := rest.pop("config", None)) is None else str(config),
        }
        if rest:
            raise ConductorError(
                f"a model cannot be loaded with '{next(iter(rest))}'; expected torch_dtype, variant, use_safetensors, "
                f"prediction_type, config, parts such as vae=, or one of {', '.join(HUB_OPTIONS)}"
            )
        return cls({"default": torch.float32, **dtypes}, hub, given, **options)


def checked_prediction(kind: str | None) -> str | None:
    """Return what a U-Net shall be taken to predict.

    Raises:
        ConductorError: it is neither noise nor velocity.
    """
    if kind is not None and kind not in PREDICTIONS:
        raise ConductorError(f"prediction_type is {kind!r:.60}; expected {' or '.join(PREDICTIONS)}")
    return kind
