"""A model's networks from its configuration alone: without data, or with random weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from concept_conductor.backbones import family_of
from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.component_configs import (
    ComponentConfig,
    TextEncoderConfig,
    UNetConfig,
    VaeConfig,
    check_config,
)
from concept_conductor.backbones.defaults import read_model_settings
from concept_conductor.backbones.meta_attention import FUSED_TEXT, FusedProcessor
from concept_conductor.backbones.model_files import ModelFiles, first_line
from concept_conductor.backbones.scheduler_config import check_scheduler, make_scheduler
from concept_conductor.errors import ConductorError

UNET, VAE, SCHEDULER = "unet", "vae", "scheduler"
TEXT_ENCODERS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
SCHEDULER_FILE = f"{SCHEDULER}/scheduler_config.json"
KINDS: dict[str, type[ComponentConfig]] = {
    UNET: UNetConfig,
    VAE: VaeConfig,
    "text_encoder": TextEncoderConfig,
    "text_encoder_2": TextEncoderConfig,
}


@dataclass(frozen=True)
class MetaModel:
    """What a model looks like.

    Attributes:
        configs: component -> its configuration, checked.
        folder: where they come from, if from a folder.
    """

    configs: dict[str, dict[str, Any]]
    folder: Path | None = field(default=None)

    @classmethod
    def read(cls, folder: Path, parts: Collection[str] | None = None) -> MetaModel:
        """Read the configurations in a diffusers folder.

        Args:
            folder: that has a folder for each part.
            parts: to read; None for those that are there, of which only a second text encoder may be missing.

        Raises:
            ConductorError: one is missing, damaged, or says what cannot be or is not honoured; one sentence.
        """
        files, configs = ModelFiles(folder), {}
        if parts is None:
            parts = {UNET, VAE, "text_encoder"}
            parts |= {"text_encoder_2"} if files.find("text_encoder_2/config.json") is not None else set()
            parts |= {SCHEDULER} if files.find(SCHEDULER_FILE) is not None else set()
        for name, kind in KINDS.items():
            if name in parts:
                file = f"{name}/config.json"
                configs[name] = check_config(kind, files.json(file), str(folder / file))
        if SCHEDULER in parts:
            configs[SCHEDULER] = check_scheduler(files.json(SCHEDULER_FILE), str(folder / SCHEDULER_FILE))
        return cls(configs, folder)

    @classmethod
    def published(cls, family: str) -> MetaModel:
        """Return the shapes in which a family was published (SD1.5 at 512 px, SD2.1 at 768 px, SDXL at 1024 px)."""
        return cls(PUBLISHED[family])

    def networks(self) -> dict[str, Any]:
        """Make the networks with random weights, on torch's present default device.

        Raises:
            ConductorError: the configurations describe none.
        """
        makers: dict[str, Any] = {UNET: UNet2DConditionModel, VAE: AutoencoderKL}
        networks = {}
        for name, config in self.configs.items():
            if name == SCHEDULER:
                continue
            try:
                if name in TEXT_ENCODERS:
                    networks[name] = TEXT_ENCODERS[name](CLIPTextConfig(**config)).eval()
                else:
                    networks[name] = makers[name](**config).eval()
            # numbers in range that do not fit each other: diffusers and transformers raise many kinds
            except Exception as error:
                where = "" if self.folder is None else f" in '{self.folder}'"
                raise ConductorError(
                    f"the configuration of '{name}'{where} describes no network that can be made "
                    f"({first_line(error)}); get the model again"
                ) from error
        return networks

    def scheduler(self) -> Any:
        """Make the scheduler, DDIM where nothing is said of it."""
        return make_scheduler(self.configs.get(SCHEDULER, {}))

    def backbone(
        self,
        dtype: torch.dtype,
        networks: Mapping[str, Any] | None = None,
        tokenizers: Mapping[str, CLIPTokenizer] | None = None,
    ) -> Backbone:
        """Make the model without data, on torch's ``meta`` device.

        Args:
            dtype: of its weights.
            networks: made on the ``meta`` device before.
            tokenizers: by their parts' names; without them it cannot read prompts.

        Raises:
            ConductorError: its configurations describe no networks, or of no supported family.
        """
        with torch.device("meta"):
            made = self.networks() if networks is None else networks
            # torch's own: diffusers' warns of a mixed precision that there is none of
            parts = {name: nn.Module.to(network, dtype=dtype) for name, network in made.items()}
        for name, part in parts.items():
            if name in TEXT_ENCODERS:
                part.set_attn_implementation(FUSED_TEXT)
            else:
                part.set_attn_processor(FusedProcessor())
        family = family_of(parts, "the model" if self.folder is None else f"the model '{self.folder}'")
        defaults = family.family_defaults
        if self.folder is not None:
            defaults = read_model_settings(self.folder, defaults)
        readers: dict[str, Any] = {**parts, **(tokenizers or {})}
        texts: dict[str, Any] = {name: readers.get(name) for name in family.text_parts}
        return family(
            unet=parts[UNET],
            vae=parts[VAE],
            scheduler=self.scheduler(),
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
