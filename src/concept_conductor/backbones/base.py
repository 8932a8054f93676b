"""Backbone: what sampling needs of a model, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, DDIMInverseScheduler, UNet2DConditionModel
from torch import Tensor, nn

from concept_conductor.backbones.conditioning import Conditioning, placeholder_embeddings, tokenize, tokenize_chunks
from concept_conductor.backbones.defaults import Defaults
from concept_conductor.backbones.schedule import Schedule
from concept_conductor.backbones.scheduler_config import ddim
from concept_conductor.backbones.text_encoders import TextEncoder
from concept_conductor.concepts import families
from concept_conductor.concepts.concept import Concept
from concept_conductor.denoiser.layers import cross_attention_names, unwrap_compiled
from concept_conductor.denoiser.lora import ScaledUpdates, check_fit, pathwise
from concept_conductor.denoiser.paths import AllRows
from concept_conductor.errors import ConceptFileError, ConductorError, FamilyError

#: Side in pixels of the tiles in which the VAE works where tiling is on.
TILE = 512
#: What transformers writes into the configuration of a model that is saved, which computes as before.
SAVING_ADDS = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version"})


class Backbone(ABC):
    """A loaded model as the method uses it; one subclass for each family.

    Attributes:
        family, name: of the model's family, for files and for people.
        text_parts: the pipeline components that this family reads texts with.
        foreign_parts: the pipeline components that only other families have.
        family_defaults: the family's settings.
        unet, vae: the networks.
        text_encoders: the text encoders.
        scheduler: DDIM, made from the checkpoint's own configuration.
        defaults: the settings that hold where a caller says None.
        force_zeros: a negative prompt that is not given is zeros, not an empty text.
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
        force_zeros: bool = False,
    ) -> None:
        self.unet = unet
        self.vae = vae
        self.text_encoders = text_encoders
        self.scheduler = ddim(scheduler)
        self.defaults = defaults
        self.device = device
        self.force_zeros = force_zeros

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

    def schedule(self, steps: int) -> Schedule:
        """Return the noise schedule of a run.

        Raises:
            ConductorError: more steps than the model has timesteps.
        """
        return Schedule(self.scheduler, steps, self.device)

    def timesteps(self, steps: int) -> Tensor:
        """Return the timesteps of a run, most noisy first, ``(steps,)``."""
        return self.schedule(steps).timesteps

    @cached_property
    def inverse_scheduler(self) -> DDIMInverseScheduler:
        """DDIM run backwards, to be given noise; it must not clip either, though its own default does."""
        return DDIMInverseScheduler.from_config(
            self.scheduler.config, clip_sample=False, timestep_spacing="leading", prediction_type="epsilon"
        )

    def to_epsilon(self, latents: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Return the noise in ``latents``, given what the U-Net predicts of them when told their timestep ``t``.

        While sampling the scheduler does the same. In inversion latents and ``t`` are a step apart, and velocity has
        to be read at the timestep that the U-Net was told, where the inverse scheduler would take the other.
        """
        if self.scheduler.config.prediction_type == "epsilon":
            return prediction
        alpha = self.scheduler.alphas_cumprod.to(latents.device)[t]
        return (alpha.sqrt() * prediction.float() + (1 - alpha).sqrt() * latents.float()).to(latents.dtype)

    def pred_original_sample(self, latents: Tensor, prediction: Tensor, t: Tensor) -> Tensor:
        """Return the clean latents that the U-Net's ``prediction`` at timestep ``t`` stands for (x0), in fp32."""
        alpha = self.scheduler.alphas_cumprod.to(latents.device)[t]
        latents, prediction = latents.float(), prediction.float()
        if self.scheduler.config.prediction_type == "epsilon":
            return (latents - (1 - alpha).sqrt() * prediction) / alpha.sqrt()
        return alpha.sqrt() * latents - (1 - alpha).sqrt() * prediction  # even where nothing but noise is left

    def encode(
        self,
        texts: Sequence[str],
        tokens: Sequence[Mapping[str, Tensor]],
        positions: Mapping[str, int] | None = None,
        chunks: int | None = None,
    ) -> Conditioning:
        """Encode a prompt with all text encoders, a text for each cross-attention layer; gradients reach ``tokens``.

        Args:
            texts: the prompt for each text encoder.
            tokens: for each text encoder, placeholder -> ``(layers, dim)`` or ``(1, dim)``, or several of them.
            positions: placeholder -> how many positions of the text it takes, if not one.
            chunks: encode the whole prompt in so many parts, of which the last may be empty; None for one that is cut.

        Returns:
            Conditioning of one path and one guidance half; the hidden states of several encoders side by side, those
            of several parts one after another, and as pooled text that of layer 0 and the first part.
        """
        hidden, pooled = [], None
        for text_encoder, text, table in zip(self.text_encoders, texts, tokens, strict=True):
            tokenizer, names = text_encoder.tokenizer, tuple(table)
            if chunks is None:
                parts = [tokenize(tokenizer, text, names, positions)]
            else:
                parts = tokenize_chunks(tokenizer, text, names, positions)
                parts += tokenize_chunks(tokenizer, "", ()) * (chunks - len(parts))
            # one text serves all layers where no placeholder has vectors of its own for each
            used = {name for part in parts for name in part.placeholders.values()}
            rows = max((table[name].shape[-2] for name in used), default=1)
            ids = torch.stack([part.ids for part in parts]).repeat_interleave(rows, 0)
            with placeholder_embeddings(text_encoder.embedding, parts, table, rows):
                states, summary = text_encoder(ids.to(self.device))
            states = states.unflatten(0, (len(parts), rows)).transpose(0, 1).flatten(1, 2)  # (rows, tokens, dim)
            hidden.append(states.expand(self.text_layers, -1, -1))  # (layers, tokens, dim)
            if summary is not None:
                pooled = summary[0].to(self.dtype)[None, None]
        return Conditioning(torch.cat(hidden, -1).to(self.dtype)[None, None], pooled)

    def count_chunks(self, prompt: str, prompt_2: str | None = None, concept: Concept | None = None) -> int:
        """Return how many parts a prompt takes to be read whole."""
        names = () if concept is None else concept.placeholders
        positions = None if concept is None else concept.positions
        texts = zip(self.text_encoders, self._texts(prompt, prompt_2))
        return max(len(tokenize_chunks(encoder.tokenizer, text, names, positions)) for encoder, text in texts)

    @torch.no_grad()
    def encode_prompt(self, prompt: str, prompt_2: str | None = None, chunks: int | None = None) -> Conditioning:
        """Encode a text with the untouched model, ``(1, 1, layers, tokens, dim)``.

        Args:
            prompt: for all text encoders, or all but the second.
            prompt_2: for the second text encoder.
            chunks: see :meth:`encode`.

        Raises:
            ConductorError: ``prompt_2`` is given to a model with one text encoder.
        """
        return self.encode(self._texts(prompt, prompt_2), [{}] * len(self.text_encoders), chunks=chunks)

    @torch.no_grad()
    def encode_concept_prompts(
        self,
        concept: Concept,
        weight: float,
        prompts: Sequence[str],
        prompts_2: Sequence[str | None] | None = None,
        chunks: int | None = None,
    ) -> list[Conditioning]:
        """Encode each text with ``concept``'s own text encoders, one text per cross-attention layer.

        Args:
            concept: checked.
            weight: of its low-rank weights.
            prompts: with its placeholders.
            prompts_2: each text's counterpart for the second text encoder; None for the same.
            chunks: see :meth:`encode`.
        """
        second = prompts_2 if prompts_2 is not None else [None] * len(prompts)
        with ExitStack() as stack:
            for text_encoder, update in zip(self.text_encoders, concept.text_encoders):
                stack.enter_context(pathwise(text_encoder.model, [ScaledUpdates(update, weight)], AllRows()))
            tokens = concept.tokens if concept.placeholders else [{}] * len(self.text_encoders)
            texts = [self._texts(*both) for both in zip(prompts, second, strict=True)]
            return [self.encode(pair, tokens, concept.positions, chunks) for pair in texts]

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
        """Check that ``concept`` fits this model: family, embeddings, and a layer for every weight.

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
        """Return further keyword arguments of the U-Net's forward; most families have none.

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
        """Encode images to latents: the mean of the VAE's posterior, scaled.

        Args:
            pixels: ``(images, 3, H, W)`` in -1..1.
        """
        with self._computing_vae():
            encoded = self.vae.encode(pixels.to(self.device, self.vae.dtype)).latent_dist.mean
        return (encoded * self.vae.config.scaling_factor).to(self.dtype)

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode latents to images, ``(images, 3, H, W)`` in 0..1, fp32; what overflows becomes NaN."""
        with self._computing_vae():
            scaled_back = latents.to(self.vae.dtype) / self.vae.config.scaling_factor
            pixels: Tensor = self.vae.decode(scaled_back, return_dict=False)[0]
        pixels = pixels.float()
        return (pixels / 2 + 0.5).clamp(0, 1).masked_fill(pixels.isinf(), torch.nan)

    def fingerprint(self) -> str:
        """Hash the weights and configuration that inversion depends on.

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
    return repr(sorted((key, value) for key, value in values.items() if key[0] != "_" and key not in SAVING_ADDS))
