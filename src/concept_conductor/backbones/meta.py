"""A model's networks from its configuration alone: without data, or with random weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from concept_conductor.backbones import family_of
from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.defaults import read_model_settings
from concept_conductor.backbones.meta_attention import FUSED_TEXT, FusedProcessor
from concept_conductor.errors import ConductorError

UNET, VAE, SCHEDULER = "unet", "vae", "scheduler"
TEXT_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}


@dataclass(frozen=True)
class MetaModel:
    """What a model looks like.

    Attributes:
        configs: component -> its configuration.
        folder: where they come from, if from a folder.
    """

    configs: dict[str, dict[str, Any]]
    folder: Path | None = field(default=None)

    @classmethod
    def read(cls, folder: Path) -> MetaModel:
        """The configurations in a diffusers folder.

        Raises:
            ConductorError: one is missing or damaged.
        """
        configs = {}
        for name in (UNET, VAE, *TEXT_ENCODERS, SCHEDULER):
            file = folder / name / ("scheduler_config.json" if name == SCHEDULER else "config.json")
            if name in ("text_encoder_2", SCHEDULER) and not file.is_file():
                continue
            try:
                configs[name] = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ConductorError(f"'{file}' cannot be read ({error}); expected a part's configuration") from error
            if not isinstance(configs[name], dict):
                raise ConductorError(f"'{file}' holds no JSON object; expected a part's configuration")
        return cls(configs, folder)

    @classmethod
    def published(cls, family: str) -> MetaModel:
        """The shapes in which a family was published (SD1.5 at 512 px, SD2.1 at 768 px, SDXL at 1024 px)."""
        return cls(PUBLISHED[family])

    def networks(self) -> dict[str, Any]:
        """The networks with random weights, on torch's present default device.

        Raises:
            ConductorError: the configurations describe none.
        """
        try:
            return self._networks()
        except (TypeError, ValueError, KeyError) as error:
            raise ConductorError(
                f"the configurations in '{self.folder}' describe no networks that can be made ({error})"
            ) from error

    def _networks(self) -> dict[str, Any]:
        configs = self.configs
        parts: dict[str, Any] = {
            UNET: UNet2DConditionModel.from_config(configs[UNET]).eval(),
            VAE: AutoencoderKL.from_config(configs[VAE]).eval(),
        }
        for name, kind in TEXT_ENCODERS.items():
            if name in configs:
                parts[name] = kind(CLIPTextConfig.from_dict(configs[name])).eval()
        return parts

    def backbone(self, dtype: torch.dtype) -> Backbone:
        """The model without data, on torch's ``meta`` device; it has no tokenizers.

        Raises:
            ConductorError: its configurations describe no networks, or of no supported family.
        """
        with torch.device("meta"):
            # torch's own: diffusers' warns of a mixed precision that there is none of
            parts = {name: nn.Module.to(network, dtype=dtype) for name, network in self.networks().items()}
        for name, part in parts.items():
            if name in TEXT_ENCODERS:
                part.set_attn_implementation(FUSED_TEXT)
            else:
                part.set_attn_processor(FusedProcessor())
        family = family_of(parts, "the model")
        defaults = family.family_defaults
        if self.folder is not None:
            defaults = read_model_settings(self.folder, defaults)
        texts: dict[str, Any] = {name: parts.get(name) for name in family.text_parts}
        return family(
            unet=parts[UNET],
            vae=parts[VAE],
            scheduler=DDIMScheduler.from_config(self.configs.get(SCHEDULER, {})),
            defaults=defaults,
            device=torch.device("meta"),
            **texts,
        )


def _vae(**changes: Any) -> dict[str, Any]:
    return {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        **changes,
    }


def _text(width: int, layers: int, heads: int, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **changes,
    }


_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
#: The configurations of the published models, as far as they differ from the classes' own defaults.
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        UNET: {"sample_size": 64, "cross_attention_dim": 768},
        VAE: _vae(sample_size=512),
        "text_encoder": _text(768, 12, 12),
        SCHEDULER: _SCHEDULER,
    },
    "sd21": {
        UNET: {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": (5, 10, 20, 20),
            "use_linear_projection": True,
        },
        VAE: _vae(sample_size=768),
        "text_encoder": _text(1024, 23, 16, hidden_act="gelu"),
        SCHEDULER: {**_SCHEDULER, "prediction_type": "v_prediction"},
    },
    "sdxl": {
        UNET: {
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "attention_head_dim": (5, 10, 20),
            "cross_attention_dim": 2048,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        VAE: _vae(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
        "text_encoder": _text(768, 12, 12),
        "text_encoder_2": _text(1280, 32, 20, hidden_act="gelu", projection_dim=1280),
        SCHEDULER: _SCHEDULER,
    },
}
