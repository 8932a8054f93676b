"""What the sampling code needs to know of a model, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from concept_conductor.backbones.conditioning import Conditioning, placeholder_embeddings, tokenize
from concept_conductor.backbones.defaults import Defaults
from concept_conductor.backbones.text_encoders import TextEncoder
from concept_conductor.concepts import families
from concept_conductor.concepts.concept import Concept
from concept_conductor.denoiser.layers import cross_attention_names, unwrap_compiled
from concept_conductor.denoiser.lora import ScaledUpdates, check_fit, pathwise
from concept_conductor.denoiser.paths import AllRows
from concept_conductor.errors import ConceptFileError, ConductorError, FamilyError

#: Side in pixels of the tiles in which the VAE works where tiling is on.
TILE = 512
#: What the U-Nets of supported checkpoints predict.
PREDICTIONS = ("epsilon", "v_prediction")


class Backbone(ABC):
    """A loaded model seen as the method sees it.

    Attributes:
        family, name: of the model's family, for files and for people.
        text_parts: the pipeline components that this family reads texts with.
        foreign_parts: the pipeline components that only other families have.
        family_defaults: the family's settings.
        unet, vae: the networks.
        text_encoders: the text encoders.
        scheduler: DDIM, made from the checkpoint's own configuration.
        defaults: the settings that hold where a caller says None.
    """

    family: ClassVar[str]
    name: ClassVar[str]
    text_parts: ClassVar[tuple[str, ...]]
    foreign_parts: ClassVar[tuple[str, ...]]
    family_defaults: ClassVar[Defaults]

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoders: tuple[TextEncoder, ...],
        scheduler: Any,
        defaults: Defaults,
        device: torch.device,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.text_encoders = text_encoders
        self.scheduler = ddim(scheduler)
        self.defaults = defaults
        self.device = device

    @classmethod
    @abstractmethod
    def fits(cls, components: Mapping[str, Any]) -> bool:
        """Whether a pipeline's components are a model of this family."""

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """Every network."""
        return (self.vae, *(text_encoder.model for text_encoder in self.text_encoders), self.unet)

    @property
    def layout_layer(self) -> str:
        return self.defaults.layout_layer

    @property
    def mask_layer(self) -> str:
        return self.defaults.mask_layer

    @property
    def word_layer(self) -> str:
        return self.defaults.word_layer

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

    @cached_property
    def text_layers(self) -> int:
        """L, the number of cross-attention layers and so of layer-wise texts."""
        return len(cross_attention_names(self.unet))

    def timesteps(self, steps: int) -> Tensor:
        """The timesteps of a run, most noisy first, ``(steps,)``."""
        self.scheduler.set_timesteps(steps, device=self.device)
        timesteps: Tensor = self.scheduler.timesteps
        return timesteps

    @cached_property
    def inverse_scheduler(self) -> DDIMInverseScheduler:
        """DDIM run backwards, to be given noise; it must not clip either, though its own default does."""
        return DDIMInverseScheduler.from_config(
            self.scheduler.config, clip_sample=False, timestep_spacing="leading", prediction_type="epsilon"
        )

    def to_epsilon(self, latents: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The noise in ``latents``, given what the U-Net predicts of them when told that their timestep is ``t``.

        While sampling the scheduler does the same. In inversion latents and ``t`` are a step apart, and velocity has
        to be read at the timestep that the U-Net was told, where the inverse scheduler would take the other.
        """
        if self.scheduler.config.prediction_type == "epsilon":
            return prediction
        alpha = self.scheduler.alphas_cumprod.to(latents.device)[t]
        return (alpha.sqrt() * prediction.float() + (1 - alpha).sqrt() * latents.float()).to(latents.dtype)

    def pred_original_sample(self, latents: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """The clean latents that the U-Net's ``prediction`` at timestep ``t`` stands for (x0), in fp32."""
        alpha = self.scheduler.alphas_cumprod.to(latents.device)[t]
        noise = self.to_epsilon(latents.float(), prediction.float(), t)
        return (latents.float() - (1 - alpha).sqrt() * noise) / alpha.sqrt()

    def encode(
        self, texts: Sequence[str], tokens: Sequence[Mapping[str, Tensor]], positions: Mapping[str, int] | None = None
    ) -> Conditioning:
        """A prompt as all text encoders read it, a text for each cross-attention layer; gradients reach ``tokens``.

        Args:
            texts: the prompt for each text encoder.
            tokens: for each text encoder, placeholder -> ``(layers, dim)`` or ``(1, dim)``, or several of them.
            positions: placeholder -> how many positions of the text it takes, if not one.

        Returns:
            Conditioning of one path and one guidance half; the hidden states of several encoders side by side, and
            as pooled text that of layer 0.
        """
        hidden, pooled = [], None
        for text_encoder, text, table in zip(self.text_encoders, texts, tokens, strict=True):
            tokenized = tokenize(text_encoder.tokenizer, text, tuple(table), positions)
            # one text serves all layers where no placeholder has vectors of its own for each
            rows = max((table[name].shape[-2] for name in tokenized.placeholders.values()), default=1)
            with placeholder_embeddings(text_encoder.embedding, [tokenized], table, rows):
                states, summary = text_encoder(tokenized.ids.expand(rows, -1).to(self.device))
            hidden.append(states.expand(self.text_layers, -1, -1))  # (layers, tokens, dim)
            if summary is not None:
                pooled = summary[0].to(self.dtype)[None, None]
        return Conditioning(torch.cat(hidden, -1).to(self.dtype)[None, None], pooled)

    @torch.no_grad()
    def encode_prompt(self, prompt: str, prompt_2: str | None = None) -> Conditioning:
        """The text as the untouched model reads it, ``(1, 1, layers, tokens, dim)``.

        Args:
            prompt: for all text encoders, or all but the second.
            prompt_2: for the second text encoder.

        Raises:
            ConductorError: ``prompt_2`` is given to a model with one text encoder.
        """
        return self.encode(self._texts(prompt, prompt_2), [{}] * len(self.text_encoders))

    @torch.no_grad()
    def encode_concept_prompts(
        self, concept: Concept, weight: float, prompts: Sequence[str], prompts_2: Sequence[str | None] | None = None
    ) -> list[Conditioning]:
        """Each text as ``concept``'s own text encoders read it, one text per cross-attention layer.

        Args:
            concept: checked.
            weight: of its low-rank weights.
            prompts: with its placeholders.
            prompts_2: each text's counterpart for the second text encoder; None for the same.
        """
        second = prompts_2 if prompts_2 is not None else [None] * len(prompts)
        with ExitStack() as stack:
            for text_encoder, update in zip(self.text_encoders, concept.text_encoders):
                stack.enter_context(pathwise(text_encoder.model, [ScaledUpdates(update, weight)], AllRows()))
            tokens = concept.tokens if concept.placeholders else [{}] * len(self.text_encoders)
            texts = [self._texts(*both) for both in zip(prompts, second, strict=True)]
            return [self.encode(pair, tokens, concept.positions) for pair in texts]

    def _texts(self, prompt: str, prompt_2: str | None) -> list[str]:
        """The text of each text encoder."""
        if prompt_2 is None:
            return [prompt] * len(self.text_encoders)
        if len(self.text_encoders) == 1:
            raise ConductorError(
                f"prompt_2 is for a second text encoder, but {self.name} has one; leave it out, or use SDXL"
            )
        return [prompt, prompt_2]

    def check(self, concept: Concept) -> None:
        """Whether ``concept`` fits this model: family, embeddings, and a layer for every weight.

        Raises:
            FamilyError: it was made for another family.
            ConceptFileError: it has weights for layers that this model lacks, or has in another shape.
        """
        families.check(concept, self.unet.config.cross_attention_dim, len(self.text_encoders))
        for text_encoder, table in zip(self.text_encoders, concept.tokens):
            for placeholder, vectors in table.items():
                if vectors.shape[-1] != text_encoder.dim or vectors.shape[-2] not in (1, self.text_layers):
                    raise FamilyError(
                        f"the placeholder {placeholder} of the concept '{concept.name}' has embeddings of shape "
                        f"{tuple(vectors.shape)}, but this model needs ({self.text_layers}, {text_encoder.dim}); "
                        "use a concept trained on a model of this family"
                    )
        networks = (unwrap_compiled(self.unet), *(text_encoder.model for text_encoder in self.text_encoders))
        for network, updates in zip(networks, (concept.unet, *concept.text_encoders)):
            try:
                check_fit(network, updates)
            except ConceptFileError as error:
                raise ConceptFileError(f"{concept.source or concept.name}: {error}") from error

    def added_conditioning(
        self, text: Conditioning, present: slice, images: int, latent_size: Sequence[int]
    ) -> dict[str, Any]:
        """Further keyword arguments of the U-Net's forward; most families have none.

        Args:
            text: conditioning of all paths.
            present: the paths in this forward.
            images: rows per path and guidance half.
            latent_size: height and width of the latents.
        """
        return {}

    @property
    def vae_dtype(self) -> torch.dtype:
        """What the VAE computes in."""
        dtype: torch.dtype = self.vae.dtype
        return dtype

    @contextmanager
    def _computing_vae(self) -> Iterator[None]:
        """The VAE in the number type it computes in; afterwards it is stored as it was (which loses nothing)."""
        stored = self.vae.dtype
        if stored == self.vae_dtype:
            yield
            return
        try:
            nn.Module.to(self.vae, dtype=self.vae_dtype)  # torch's own: diffusers' warns where there is nothing to fear
            yield
        finally:
            nn.Module.to(self.vae, dtype=stored)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Latents of images: the mean of the VAE's posterior, scaled.

        Args:
            pixels: ``(images, 3, H, W)`` in -1..1.
        """
        with self._computing_vae():
            encoded = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.mean
        return (encoded * self.vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images of latents, ``(images, 3, H, W)`` in 0..1, fp32."""
        with self._computing_vae():
            scaled_back = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
            pixels: Tensor = self.vae.decode(scaled_back, return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def fingerprint(self) -> str:
        """A hash of the weights and configuration that inversion depends on.

        Take it before concepts are put into the U-Net; it reads every weight (about 2 s at SD1.5's size).
        """
        digest = sha256()
        for model in self.models:
            digest.update(stable_text(model.config).encode())
            for name, tensor in sorted(unwrap_compiled(model).state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digest.update(stable_text(self.scheduler.config).encode())
        return digest.hexdigest()


def stable_text(config: Any) -> str:
    """A configuration as text that is the same in every process (diffusers keeps lists made from sets in it)."""
    values = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return repr(sorted((key, value) for key, value in values.items() if not key.startswith("_")))


def ddim(scheduler: Any) -> DDIMScheduler:
    """DDIM with the checkpoint's noise schedule, whatever sampler the checkpoint names.

    Raises:
        FamilyError: the checkpoint predicts neither noise nor velocity.
    """
    kind = scheduler.config.prediction_type
    if kind not in PREDICTIONS:
        raise FamilyError(f"the checkpoint predicts '{kind}'; expected one that predicts {' or '.join(PREDICTIONS)}")
    return DDIMScheduler.from_config(
        scheduler.config, clip_sample=False, thresholding=False, timestep_spacing="leading"
    )
