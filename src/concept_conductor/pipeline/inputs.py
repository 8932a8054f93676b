"""All that a run starts from: what the user gave, checked once, encoded, and then trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import Conditioning, warn_once
from concept_conductor.backbones.defaults import Defaults
from concept_conductor.backbones.prompt_syntax import syntax_warning
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.denoiser.masks import to_latent_grid
from concept_conductor.errors import ConductorError
from concept_conductor.io.tensors import image_pixels, mask_pixels
from concept_conductor.layouts.layout import Layout
from concept_conductor.method.background import Background, InvertedBackground, NoBackground, NoisedBackground
from concept_conductor.method.initial_masks import GivenMasks, MaskSource
from concept_conductor.method.inversion import InversionSource
from concept_conductor.method.sampling import SamplingInputs
from concept_conductor.pipeline.masks import mask_source
from concept_conductor.placement.placement import Placement
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement, SamplingSettings, Settings


@dataclass(frozen=True)
class Prompts:
    """The base path's texts.

    Attributes:
        prompt: what to show.
        negative: what to steer away from, in every path; None for an empty text, or zeros where the model has it so.
        prompt_2, negative_2: for SDXL's second text encoder; None for the same as the first.
    """

    prompt: str
    negative: str | None = None
    prompt_2: str | None = None
    negative_2: str | None = None


def prepare_inputs(
    backbone: Backbone,
    settings: SamplingSettings,
    prompts: Prompts,
    *,
    size: tuple[int, int],
    latents: Tensor,
    concepts: Sequence[ConceptPrompt] = (),
    layout: Layout | None = None,
    placement: Placement | None = None,
    chunk_prompts: bool = False,
) -> SamplingInputs:
    """Check everything that the user gave against each other, and encode it.

    Args:
        backbone: the model.
        settings: filled.
        prompts: the base path's texts.
        size: width and height of the run in pixels.
        latents: the initial noise, ``(images, 4, h, w)``.
        concepts: each with its variant of the base prompt.
        layout: needed where there are concepts.
        placement: place the concepts in a given image.
        chunk_prompts: encode prompts that are too long for the text encoder in parts, instead of cutting them.

    Raises:
        ConductorError: something does not fit, in one sentence.
    """
    texts = [prompts.prompt, prompts.negative, prompts.prompt_2, *(entry.prompt for entry in concepts)]
    if sentence := syntax_warning(texts):
        warn_once(sentence)
    if concepts and layout is None:
        raise ConductorError("concepts need a layout: give layout=Layout(image, prompt=..., masks=[...])")
    for entry in concepts:
        backbone.check(entry.concept)
    latent_size = (int(latents.shape[2]), int(latents.shape[3]))
    masks: MaskSource = GivenMasks(torch.zeros(0, *latent_size, dtype=torch.bool))
    reference = None
    if layout is not None:
        if concepts:
            refinement = settings.refinement or backbone.defaults.refinement
            masks = mask_source(layout, len(concepts), size, latent_size, refinement)
        if settings.alignment is not None or layout.masks is None:  # regions are looked up in it
            reference = inversion_source(
                backbone, layout.image, layout.prompt, size, settings.inversion, chunk_prompts=chunk_prompts
            )
    return SamplingInputs(
        text=encode_texts(
            backbone, prompts, concepts, unconditional=settings.guidance_scale > 1, chunked=chunk_prompts
        ),
        updates=[{}, *(ScaledUpdates(entry.concept.unet, entry.weight) for entry in concepts)],
        latents=latents,
        masks=masks,
        reference=reference,
        background=NoBackground()
        if placement is None
        else background(backbone, placement, layout, size, latents, settings),
    )


def encode_texts(
    backbone: Backbone,
    prompts: Prompts,
    concepts: Sequence[ConceptPrompt],
    *,
    unconditional: bool,
    chunked: bool = False,
) -> Conditioning:
    """Encode the texts of all paths, the base path first.

    Args:
        backbone: the model.
        prompts: the base path's texts.
        concepts: each with its variant of the base prompt.
        unconditional: encode the negative prompt too.
        chunked: encode whole texts, in as many parts as the longest takes; otherwise they are cut.
    """
    zeros = unconditional and backbone.force_zeros and prompts.negative is None and prompts.negative_2 is None
    negative = [(prompts.negative or "", prompts.negative_2)] if unconditional and not zeros else []
    base = [(prompts.prompt, prompts.prompt_2), *negative]
    variants = [[(entry.variant(prompts.prompt), entry.variant_2(prompts.prompt_2)), *negative] for entry in concepts]
    chunks = None
    if chunked:
        counts = [backbone.count_chunks(*both) for both in base]
        counts += [
            backbone.count_chunks(*both, entry.concept)
            for entry, own in zip(concepts, variants, strict=True)
            for both in own
        ]
        chunks = max(counts)
    texts = [[backbone.encode_prompt(*both, chunks=chunks) for both in base]]
    for entry, own in zip(concepts, variants, strict=True):
        first, second = zip(*own)
        texts.append(backbone.encode_concept_prompts(entry.concept, entry.weight, first, second, chunks))
    if zeros:
        texts = [[text, text.zeros()] for (text,) in texts]
    return Conditioning.stack(texts)


def resolve_settings(
    defaults: Defaults,
    *,
    guidance_scale: float | None,
    alignment: Alignment | None,
    injection: Injection | None,
    refinement: Refinement | None,
    **others: Any,
) -> SamplingSettings:
    """Fill settings with the model's values where a field is None.

    Raises:
        ConductorError: a value out of range.
    """
    if others["steps"] < 1:
        raise ConductorError(f"num_inference_steps must be at least 1, but it is {others['steps']}")
    if guidance_scale is None:
        guidance_scale = defaults.guidance_scale
    if guidance_scale < 1:
        raise ConductorError(f"guidance_scale must be at least 1 (1 is no guidance), but it is {guidance_scale}")
    if others["paths_per_forward"] is not None and others["paths_per_forward"] < 1:
        raise ConductorError(
            f"paths_per_forward must be at least 1, or None for all at once, but it is {others['paths_per_forward']}"
        )
    if alignment is not None:
        alignment = Alignment(**defaults.alignment.model_dump() | given(alignment))
    if injection is not None:
        injection = Injection(**defaults.injection.model_dump() | given(injection))
    if refinement is not None:
        refinement = Refinement(**defaults.refinement.model_dump() | given(refinement))
    return SamplingSettings(
        guidance_scale=guidance_scale, alignment=alignment, injection=injection, refinement=refinement, **others
    )


def given(settings: Settings) -> dict[str, Any]:
    """Return the fields that the caller has set to something."""
    return settings.model_dump(exclude_unset=True, exclude_none=True)


def image_size(backbone: Backbone, width: int | None, height: int | None) -> tuple[int, int]:
    """Return width and height of the run in pixels, checked."""
    cells = backbone.unet.config.sample_size
    if cells is None and (width is None or height is None):
        raise ConductorError("the model's U-Net names no size of its own (sample_size); give width and height")
    own = (cells or 0) * backbone.vae_factor
    size = (own if width is None else width, own if height is None else height)
    multiple = backbone.size_multiple
    if any(side < multiple or side % multiple for side in size):
        nearest = [max(multiple, round(side / multiple) * multiple) for side in size]
        raise ConductorError(
            f"width and height must be multiples of {multiple} for this model, but {size[0]}x{size[1]} was asked for; "
            f"the nearest is {nearest[0]}x{nearest[1]}"
        )
    return size


def initial_latents(
    backbone: Backbone,
    size: tuple[int, int],
    images: int,
    generator: torch.Generator | list[torch.Generator] | None,
    latents: Tensor | None,
) -> Tensor:
    """Draw or take the noise a run starts from, ``(images, 4, h, w)``."""
    factor = backbone.vae_factor
    shape = (images, backbone.unet.config.in_channels, size[1] // factor, size[0] // factor)
    if images < 1:
        raise ConductorError(f"num_images_per_prompt must be at least 1, but it is {images}")
    if latents is not None:
        if tuple(latents.shape) != shape:
            raise ConductorError(f"latents must have the shape {shape}, but theirs is {tuple(latents.shape)}")
        return latents.to(backbone.device, backbone.dtype) * backbone.scheduler.init_noise_sigma
    if isinstance(generator, list) and len(generator) != images:
        raise ConductorError(f"give one generator, or one for each of {images} images, not {len(generator)}")
    noise: Tensor = randn_tensor(shape, generator=generator, device=backbone.device, dtype=backbone.dtype)
    return noise * backbone.scheduler.init_noise_sigma


def inversion_source(
    backbone: Backbone,
    image: Image.Image,
    prompt: str,
    size: tuple[int, int],
    settings: Inversion,
    *,
    chunk_prompts: bool = False,
) -> InversionSource:
    """Make an image ready for inversion at the size of the run."""
    # the model is hashed now, while it is itself: during a run the concepts' weights are in it
    model = None if settings.cache is False else backbone.fingerprint()
    pixels = image_pixels(image, size).to(backbone.device)
    chunks = backbone.count_chunks(prompt) if chunk_prompts else None
    return InversionSource(pixels, prompt, backbone.encode_prompt(prompt, chunks=chunks), model)


def background(
    backbone: Backbone,
    placement: Placement,
    layout: Layout | None,
    size: tuple[int, int],
    latents: Tensor,
    settings: SamplingSettings,
) -> Background:
    """Return what stays of the image that objects are placed in."""
    pixels = mask_pixels(placement.mask, size)
    mask = to_latent_grid(pixels[None], (latents.shape[2], latents.shape[3]))[None].float().to(backbone.device)
    if not mask.any():
        raise ConductorError("the placement's mask is empty; draw the area that may change in white on black")
    if placement.background == "noise":
        return NoisedBackground(image_pixels(placement.image, size).to(backbone.device), mask, latents)
    prompt = placement.prompt if placement.prompt is not None else (layout.prompt if layout is not None else None)
    if prompt is None:
        raise ConductorError("placement with background='inversion' needs prompt= (what the image shows) or a layout")
    source = inversion_source(backbone, placement.image, prompt, size, settings.inversion)
    return InvertedBackground(source, mask)
