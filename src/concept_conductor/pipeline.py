"""The user's face of the method: a diffusers-style pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from concept_conductor.backbones import Backbone, Defaults, SD15Backbone, read_model_settings
from concept_conductor.backbones.sd15 import SD15_DEFAULTS
from concept_conductor.errors import ConductorError, FamilyError
from concept_conductor.inversion import InversionSource
from concept_conductor.layout import GivenMasks, Layout, MaskSource, image_pixels, mask_pixels
from concept_conductor.masks import to_latent_grid
from concept_conductor.placement import (
    Background,
    InvertedBackground,
    NoisedBackground,
    Placement,
    composite,
)
from concept_conductor.prompts import ConceptPrompt, Conditioning
from concept_conductor.sampling import Scene, Step, sample
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement, SamplingSettings
from concept_conductor.unet.lora import scaled

#: The name of the model that comes with the package.
EMBEDDED = "mini"

StepCallback = Callable[[Any, int, int, dict[str, Tensor]], dict[str, Tensor] | None]


@dataclass
class ConductorOutput(BaseOutput):  # type: ignore[misc]
    """What a pipeline call gives.

    Attributes:
        images: PIL images, or ``(n, h, w, 3)`` ("np") or ``(n, 3, h, w)`` ("pt") in 0..1, or latents.
        masks: the masks last used, ``(images, concepts, h, w)``, boolean, on the latent grid.
        nsfw_content_detected: what the checkpoint's safety checker found in each image; None without one.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    masks: Tensor
    nsfw_content_detected: list[bool] | None = None


class ConceptConductorPipeline(DiffusionPipeline, StableDiffusionMixin):  # type: ignore[misc]
    """Any number of personalized concepts in one picture.

    Components are those of :class:`diffusers.StableDiffusionPipeline`; ``to``, ``enable_model_cpu_offload``,
    ``enable_vae_slicing`` and the like work as there. ``defaults`` holds the values of settings left None.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    _optional_components = ["safety_checker", "feature_extractor", "image_encoder"]
    _exclude_from_cpu_offload = ["safety_checker"]
    _callback_tensor_inputs = ["latents"]

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: Any,
        safety_checker: Any = None,
        feature_extractor: Any = None,
        image_encoder: Any = None,
        defaults: Defaults = SD15_DEFAULTS,
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=safety_checker,
            feature_extractor=feature_extractor,
            image_encoder=image_encoder,
        )
        self.defaults = defaults

    @classmethod
    def from_pretrained(cls, model: str | Path, **kwargs: Any) -> ConceptConductorPipeline:
        """Load ``"mini"`` (the embedded model), a diffusers folder, or a hub id.

        Args:
            model: which one.
            kwargs: passed to :meth:`diffusers.DiffusionPipeline.from_pretrained` (``torch_dtype``, ``revision``,
                ``variant``, components...).

        Raises:
            ConductorError: there is no such model, or it is of no supported family.
        """
        if str(model) == EMBEDDED:
            from concept_conductor.mini import MODEL_FOLDER

            model = MODEL_FOLDER
        folder = Path(model)
        if folder.exists() and not (folder / "model_index.json").is_file():
            raise ConductorError(
                f"'{model}' is no diffusers folder (it has no model_index.json); for a single checkpoint file "
                "use from_single_file"
            )
        try:
            loaded = DiffusionPipeline.from_pretrained(str(model), **with_dtype(kwargs))
        except OSError as error:
            raise ConductorError(
                f"the model '{model}' could not be loaded ({str(error).splitlines()[0]}); "
                "give 'mini', a diffusers folder, or a hub id that can be reached"
            ) from error
        return cls.from_components(loaded, read_model_settings(folder, SD15_DEFAULTS))

    @classmethod
    def from_single_file(cls, file: str | Path, **kwargs: Any) -> ConceptConductorPipeline:
        """Load an SD1.5 checkpoint kept in one ``.safetensors`` or ``.ckpt`` file (or its URL).

        Raises:
            ConductorError: there is no such file.
        """
        if not str(file).startswith(("http://", "https://")) and not Path(file).is_file():
            raise ConductorError(f"there is no checkpoint file '{file}'")
        return cls.from_components(StableDiffusionPipeline.from_single_file(str(file), **with_dtype(kwargs)), SD15_DEFAULTS)

    @classmethod
    def from_components(cls, pipe: DiffusionPipeline, defaults: Defaults = SD15_DEFAULTS) -> ConceptConductorPipeline:
        """Take over the components of a loaded diffusers pipeline.

        Raises:
            FamilyError: it is not of a supported family.
        """
        components = pipe.components
        if not isinstance(components.get("text_encoder"), CLIPTextModel) or "text_encoder_2" in components:
            raise FamilyError(f"the model is a {type(pipe).__name__}; this version supports Stable Diffusion 1.x")
        return cls(**components, defaults=defaults)

    @property
    def backbone(self) -> Backbone:
        """The model as the method sees it."""
        return SD15Backbone(
            unet=self.unet,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            defaults=self.defaults,
            device=self._execution_device,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str,
        concepts: Sequence[ConceptPrompt] = (),
        layout: Layout | None = None,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 200,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        alignment: Alignment | None = Alignment(),  # noqa: B008 - frozen
        refinement: Refinement | None = Refinement(),  # noqa: B008
        inversion: Inversion = Inversion(),  # noqa: B008
        injection: Injection | None = Injection(),  # noqa: B008
        placement: Placement | None = None,
        paths_per_forward: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> ConductorOutput | tuple[Any, Tensor]:
        """Make pictures of ``prompt`` with every concept where the layout has it.

        Args:
            prompt: the base prompt.
            concepts: the concepts, each with its variant of the base prompt.
            layout: the layout reference with a mask or point per concept; needed where there are concepts.
            negative_prompt: what to steer away from, in every path.
            height, width: in pixels, multiples of VAE factor times U-Net downsampling; None: the model's own size.
            num_inference_steps: T.
            guidance_scale: classifier-free guidance; 1 switches it off.
            num_images_per_prompt: number of pictures.
            generator: one draws all pictures' noise in order, a list gives one each.
            latents: initial noise ``(images, 4, h, w)`` instead of drawing it.
            alignment, refinement, injection: the method's parts; None switches one off.
            inversion: of the layout reference.
            placement: place the concepts in a given image.
            paths_per_forward: None for all paths at once; 1 needs least memory.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: ``callback(pipe, step, timestep, tensors)`` after scheduler and placement;
                returned ``latents`` replace the step's.
            callback_on_step_end_tensor_inputs: what it is given; only "latents".
            return_dict: False gives ``(images, masks)``.

        Returns:
            :class:`ConductorOutput`.

        Raises:
            ConductorError: anything about the input that does not fit, in one sentence.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ConductorError(f"output_type must be 'pil', 'np', 'pt' or 'latent', but it is '{output_type}'")
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ConductorError(f"callbacks can be given {self._callback_tensor_inputs}, not {sorted(unknown)}")
        backbone = self.backbone
        settings = filled(
            backbone.defaults,
            steps=num_inference_steps,
            guidance_scale=guidance_scale,
            alignment=alignment,
            injection=injection,
            refinement=refinement if concepts else None,
            inversion=inversion,
            paths_per_forward=paths_per_forward,
        )
        size = image_size(backbone, width, height)
        noise = initial_latents(backbone, size, num_images_per_prompt, generator, latents)
        scene = self._scene(backbone, prompt, negative_prompt, concepts, layout, placement, size, noise, settings)

        step: Step | None = None
        with (
            self.progress_bar(total=settings.steps) as bar,
            closing(sample(backbone, scene, settings)) as steps,
        ):
            replaced: Tensor | None = None
            for _ in range(settings.steps):
                step = steps.send(replaced)
                bar.update()
                changes = None
                if callback_on_step_end is not None:
                    changes = callback_on_step_end(self, step.index, step.timestep, {"latents": step.latents})
                replaced = (changes or {}).get("latents")
        assert step is not None
        final = step.latents if replaced is None else replaced
        images, flagged = self._finish(backbone, final, output_type, placement, size)
        self.maybe_free_model_hooks()
        masks = step.masks.cpu()
        if not return_dict:
            return images, masks
        return ConductorOutput(images, masks, flagged)

    def _scene(
        self,
        backbone: Backbone,
        prompt: str,
        negative_prompt: str,
        concepts: Sequence[ConceptPrompt],
        layout: Layout | None,
        placement: Placement | None,
        size: tuple[int, int],
        latents: Tensor,
        settings: SamplingSettings,
    ) -> Scene:
        """Check everything the user gave, and encode it."""
        if concepts and layout is None:
            raise ConductorError("concepts need a layout: give layout=Layout(image, prompt=..., masks=[...])")
        guided = settings.guidance_scale > 1
        for entry in concepts:
            backbone.check(entry.concept)
        halves = [prompt, negative_prompt][: 2 if guided else 1]
        texts = [[backbone.encode_prompt(text) for text in halves]]
        for entry in concepts:
            halves[0] = entry.variant(prompt)
            texts.append(backbone.encode_concept_prompts(entry.concept, entry.weight, halves))

        latent_size = (int(latents.shape[2]), int(latents.shape[3]))
        masks: MaskSource = GivenMasks(torch.zeros(0, *latent_size, dtype=torch.bool))
        reference = None
        if layout is not None:
            refinement = settings.refinement or backbone.defaults.refinement
            if concepts:
                masks = layout.mask_source(len(concepts), size, latent_size, refinement)
            if settings.alignment is not None or layout.points is not None:
                reference = inversion_source(backbone, layout.image, layout.prompt, size)
        return Scene(
            text=Conditioning.stack(texts),
            updates=[{}, *(scaled(entry.concept.unet, entry.weight) for entry in concepts)],
            latents=latents,
            masks=masks,
            reference=reference,
            background=None if placement is None else background(backbone, placement, layout, size, latents),
        )

    def _finish(
        self, backbone: Backbone, latents: Tensor, output_type: str, placement: Placement | None, size: tuple[int, int]
    ) -> tuple[Any, list[bool] | None]:
        """Decode, put the original's pixels back outside of a placement, ask the safety checker."""
        if output_type == "latent":
            return latents, None
        pixels = torch.cat([backbone.decode_latents(one) for one in latents.split(1)])  # one by one, to save memory
        pictures = [Image.fromarray(array) for array in to_uint8(pixels)]
        if placement is not None:
            original = placement.image.convert("RGB").resize(size)
            mask = Image.fromarray(mask_pixels(placement.mask, size).numpy())
            pictures = [composite(picture, original, mask, backbone.vae_factor / 2) for picture in pictures]
        pictures, flagged = self._safety_checked(pictures)
        if output_type == "pil":
            return pictures, flagged
        if placement is not None or any(flagged or ()):
            arrays = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])
            pixels = torch.from_numpy(arrays).permute(0, 3, 1, 2)
        return (pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1).cpu().numpy()), flagged

    def _safety_checked(self, pictures: list[Image.Image]) -> tuple[list[Image.Image], list[bool] | None]:
        """Black out what the checkpoint's own safety checker refuses."""
        if self.safety_checker is None:
            return pictures, None
        device = self._execution_device
        features = self.feature_extractor(pictures, return_tensors="pt").pixel_values
        self.safety_checker.to(device)
        arrays = np.stack([np.asarray(picture, dtype=np.float32) / 255 for picture in pictures])
        _, flagged = self.safety_checker(images=arrays, clip_input=features.to(device, self.safety_checker.dtype))
        flagged = [bool(flag) for flag in flagged]
        black = Image.new("RGB", pictures[0].size)
        return [black if flag else picture for picture, flag in zip(pictures, flagged, strict=True)], flagged


def with_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a loader; diffusers renamed ``torch_dtype`` to ``dtype``, users know both."""
    return {"dtype" if name == "torch_dtype" else name: value for name, value in kwargs.items()}


def filled(
    defaults: Defaults, *, alignment: Alignment | None, refinement: Refinement | None, **others: Any
) -> SamplingSettings:
    """Settings with the model's values where a field is None.

    Raises:
        ConductorError: a value out of range.
    """
    if others["steps"] < 1:
        raise ConductorError(f"num_inference_steps must be at least 1, but it is {others['steps']}")
    if others["guidance_scale"] < 1:
        raise ConductorError(f"guidance_scale must be at least 1 (1 is no guidance), but it is {others['guidance_scale']}")
    if others["paths_per_forward"] is not None and others["paths_per_forward"] < 1:
        raise ConductorError(
            f"paths_per_forward must be at least 1, or None for all at once, but it is {others['paths_per_forward']}"
        )
    if alignment is not None:
        alignment = Alignment(**{**defaults.alignment.model_dump(), **alignment.model_dump(exclude_none=True)})
    if refinement is not None:
        refinement = Refinement(**{**defaults.refinement.model_dump(), **refinement.model_dump(exclude_unset=True, exclude_none=True)})
    return SamplingSettings(alignment=alignment, refinement=refinement, **others)


def image_size(backbone: Backbone, width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height of the run in pixels, checked."""
    own = backbone.unet.config.sample_size * backbone.vae_factor
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
    """The noise a run starts from, ``(images, 4, h, w)``."""
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


def inversion_source(backbone: Backbone, image: Image.Image, prompt: str, size: tuple[int, int]) -> InversionSource:
    """An image made ready for inversion at the size of the run."""
    return InversionSource(image_pixels(image, size).to(backbone.device), prompt, backbone.encode_prompt(prompt))


def background(
    backbone: Backbone, placement: Placement, layout: Layout | None, size: tuple[int, int], latents: Tensor
) -> Background:
    """What stays of the image that objects are placed in."""
    pixels = mask_pixels(placement.mask, size)
    mask = to_latent_grid(pixels[None], (latents.shape[2], latents.shape[3]))[None].float().to(backbone.device)
    if not mask.any():
        raise ConductorError("the placement's mask is empty; draw the area that may change in white on black")
    if placement.background == "noise":
        return NoisedBackground(image_pixels(placement.image, size).to(backbone.device), mask, latents)
    prompt = placement.prompt if placement.prompt is not None else (layout.prompt if layout is not None else None)
    if prompt is None:
        raise ConductorError("placement with background='inversion' needs prompt= (what the image shows) or a layout")
    return InvertedBackground(inversion_source(backbone, placement.image, prompt, size), mask)


def to_uint8(pixels: Tensor) -> np.ndarray:
    """``(n, 3, h, w)`` in 0..1 as ``(n, h, w, 3)`` bytes."""
    array: np.ndarray = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return array
