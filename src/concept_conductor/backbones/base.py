"""What the sampling code needs to know of a model, whatever its family."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import ConductorError
from concept_conductor.prompts import Conditioning
from concept_conductor.settings import Alignment, Refinement
from concept_conductor.unet.layers import plain

MODEL_SETTINGS_FILE = "conductor.json"


class TrainingDefaults(BaseModel):
    """What training a concept must know of the base model.

    Attributes:
        norm_threshold: mean L2 norm of a concept's token rows at which they are frozen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    norm_threshold: float = Field(gt=0)


class Defaults(BaseModel):
    """What the method uses where a setting is None: a family's values, or a model folder's own.

    Attributes:
        layout_layer: self-attention layer whose keys are the layout feature.
        mask_layer: self-attention layer whose probabilities are clustered into masks.
        alignment: step size, concept weight and window of layout alignment.
        refinement: window, rhythm and overlap threshold of mask refinement.
        training: the base model's values for the trainer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout_layer: str
    mask_layer: str
    alignment: Alignment
    refinement: Refinement
    training: TrainingDefaults

    def overridden(self, own: Mapping[str, Any]) -> Defaults:
        """These defaults with a model folder's own values put over them."""
        merged = self.model_dump(exclude_none=True)
        for key, value in own.items():
            merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
        return Defaults.model_validate(merged)


def read_model_settings(folder: Path, family: Defaults) -> Defaults:
    """The family's defaults with those of ``folder/conductor.json`` over them, where the file exists.

    Raises:
        ConductorError: the file is damaged or names an unknown setting.
    """
    file = folder / MODEL_SETTINGS_FILE
    if not file.is_file():
        return family
    try:
        return family.overridden(json.loads(file.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ConductorError(f"{file} is no valid JSON object ({error}); mend or remove it") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConductorError(f"{file}: '{field}': {first['msg']}; mend or remove that line") from error


class Backbone(ABC):
    """A loaded model seen as the method sees it.

    Attributes:
        unet, vae: the networks.
        scheduler: DDIM, made from the checkpoint's own configuration.
        defaults: the settings that hold where a caller says None.
    """

    family: str

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: Any,
        defaults: Defaults,
        device: torch.device,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.scheduler = ddim(scheduler)
        self.defaults = defaults
        self.device = device

    @property
    def layout_layer(self) -> str:
        return self.defaults.layout_layer

    @property
    def mask_layer(self) -> str:
        return self.defaults.mask_layer

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def vae_factor(self) -> int:
        """Pixels per latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def size_multiple(self) -> int:
        """Image sizes must be multiples of this: VAE factor times the U-Net's downsampling."""
        return int(self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1))

    def timesteps(self, steps: int) -> Tensor:
        """The timesteps of a run, most noisy first, ``(steps,)``."""
        self.scheduler.set_timesteps(steps, device=self.device)
        timesteps: Tensor = self.scheduler.timesteps
        return timesteps

    @cached_property
    def inverse_scheduler(self) -> DDIMInverseScheduler:
        """DDIM run backwards; it must not clip either, though its own default does."""
        return DDIMInverseScheduler.from_config(self.scheduler.config, clip_sample=False, timestep_spacing="leading")

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Conditioning:
        """The text as the untouched model reads it, ``(1, 1, layers, tokens, dim)``."""

    @abstractmethod
    def encode_concept_prompts(self, concept: Concept, weight: float, prompts: list[str]) -> list[Conditioning]:
        """Each text as ``concept``'s own text encoder reads it, one text per cross-attention layer."""

    @abstractmethod
    def check(self, concept: Concept) -> None:
        """Raise FamilyError where ``concept`` was made for another family."""

    def added_conditioning(self, text: Conditioning, present: slice, images: int, size: torch.Size) -> dict[str, Any]:
        """Further keyword arguments of the U-Net's forward; SD1.5 has none."""
        return {}

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Latents of images: the mean of the VAE's posterior, scaled.

        Args:
            pixels: ``(images, 3, H, W)`` in -1..1.
        """
        encoded = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.mean
        return (encoded * self.vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images of latents, ``(images, 3, H, W)`` in 0..1, fp32."""
        scaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
        pixels: Tensor = self.vae.decode(scaled, return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def fingerprint(self) -> str:
        """A hash of the weights and configuration that inversion depends on.

        Take it before concepts are put into the U-Net; it reads every weight (about 2 s at SD1.5's size).
        """
        digest = sha256()
        for model in (self.vae, self.text_encoder, self.unet):
            digest.update(stable_text(model.config).encode())
            for name, tensor in sorted(plain(model).state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digest.update(stable_text(self.scheduler.config).encode())
        return digest.hexdigest()


def stable_text(config: Any) -> str:
    """A configuration as text that is the same in every process (diffusers keeps lists made from sets in it)."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return repr(sorted((key, value) for key, value in values.items() if not key.startswith("_")))


def ddim(scheduler: Any) -> DDIMScheduler:
    """DDIM with the checkpoint's noise schedule, whatever sampler the checkpoint names."""
    return DDIMScheduler.from_config(
        scheduler.config, clip_sample=False, thresholding=False, timestep_spacing="leading"
    )
