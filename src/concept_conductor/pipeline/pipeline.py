"""The user's face of the method: a diffusers-style pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from concept_conductor.backbones import family_of
from concept_conductor.backbones.base import TILE, Backbone
from concept_conductor.backbones.defaults import Defaults, read_model_settings
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.denoiser.masks import Masks
from concept_conductor.errors import ConductorError
from concept_conductor.io.files import CHECKPOINTS
from concept_conductor.layouts.layout import Layout
from concept_conductor.method.injection import regions
from concept_conductor.method.inversion import Progress
from concept_conductor.method.sampling import Step, sample
from concept_conductor.pipeline import loading
from concept_conductor.pipeline.inputs import Prompts, image_size, initial_latents, prepare_inputs, resolve_settings
from concept_conductor.pipeline.postprocess import black_out, postprocess
from concept_conductor.placement.placement import Placement
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement
from concept_conductor.tracing.trace import Trace

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
        layout_masks: the masks of the first step, like ``masks``.
    """

    images: list[Image.Image] | np.ndarray | Tensor
    masks: Tensor
    nsfw_content_detected: list[bool] | None = None
    layout_masks: Tensor | None = None


class ConceptConductorPipeline(DiffusionPipeline, StableDiffusionMixin):  # type: ignore[misc]
    """Any number of personalized concepts in one image.

    Components are those of :class:`diffusers.StableDiffusionPipeline` or, for SDXL,
    :class:`diffusers.StableDiffusionXLPipeline`; ``to``, ``enable_model_cpu_offload`` and the like work as there.
    ``defaults`` holds the values of settings left None: the model family's where not given.

    Raises:
        FamilyError: the components are of no supported family.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    _optional_components: ClassVar = [
        "text_encoder_2",
        "tokenizer_2",
        "safety_checker",
        "feature_extractor",
        "image_encoder",
    ]
    _exclude_from_cpu_offload: ClassVar = ["safety_checker"]
    _callback_tensor_inputs: ClassVar = ["latents"]

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
        text_encoder_2: CLIPTextModelWithProjection | None = None,
        tokenizer_2: CLIPTokenizer | None = None,
        defaults: Defaults | None = None,
    ) -> None:
        super().__init__()
        components = {
            "vae": vae,
            "text_encoder": text_encoder,
            "tokenizer": tokenizer,
            "unet": unet,
            "scheduler": scheduler,
            "safety_checker": safety_checker,
            "feature_extractor": feature_extractor,
            "image_encoder": image_encoder,
            "text_encoder_2": text_encoder_2,
            "tokenizer_2": tokenizer_2,
        }
        self.register_modules(**components)
        self.family = family_of(components, "the model")
        self.defaults = self.family.family_defaults if defaults is None else defaults

    @classmethod
    def from_pretrained(cls, model: str | Path, **kwargs: Any) -> ConceptConductorPipeline:
        """Load ``"mini"`` (the embedded model), a diffusers folder, or a hub id; its files tell the family.

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
        return cls.from_components(loading.pretrained(model, kwargs), Path(model))

    @classmethod
    def from_single_file(cls, file: str | Path, **kwargs: Any) -> ConceptConductorPipeline:
        """Load a checkpoint kept in one ``.safetensors`` or ``.ckpt`` file (or its URL); its weights tell the family.

        Args:
            file: which one.
            kwargs: passed to diffusers' ``from_single_file``: ``torch_dtype``, and ``config`` (a diffusers folder of
                the same family, for machines that cannot reach the hub, from which it comes otherwise).

        Raises:
            ConductorError: there is no such file, it is of no supported family, or its configuration is out of reach.
        """
        return cls.from_components(loading.single_file(file, kwargs))

    @classmethod
    def from_components(cls, pipe: DiffusionPipeline, folder: Path | None = None) -> ConceptConductorPipeline:
        """Take over the components of a loaded diffusers pipeline.

        Args:
            pipe: of a supported family.
            folder: where the model lies, whose ``conductor.json`` may hold settings of its own.

        Raises:
            FamilyError: it is not of a supported family.
        """
        family = family_of(pipe.components, f"the {type(pipe).__name__}")
        defaults = family.family_defaults
        return cls(**pipe.components, defaults=defaults if folder is None else read_model_settings(folder, defaults))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write a folder that this class and the family's own diffusers pipeline load; kwargs go to diffusers."""
        loading.save(self.components, self.family, self.defaults, Path(save_directory), kwargs)

    @property
    def components(self) -> dict[str, Any]:
        """The components that this family's own diffusers pipeline has."""
        parts: dict[str, Any] = super().components
        return {name: part for name, part in parts.items() if part is not None or name not in self.family.foreign_parts}

    @property
    def backbone(self) -> Backbone:
        """The model as the method sees it."""
        texts = {name: getattr(self, name) for name in self.family.text_parts}
        return self.family(
            unet=self.unet,
            vae=self.vae,
            scheduler=self.scheduler,
            defaults=self.defaults,
            device=self._execution_device,
            **texts,
        )

    def enable_vae_slicing(self) -> None:
        """Decode images one after another; this pipeline does so anyway, users of ``vae`` may not."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Undo :meth:`enable_vae_slicing`."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode in overlapping tiles of 512 px: far less memory, with faint differences between tiles."""
        self.vae.enable_tiling()
        # SDXL's VAE would take tiles of 1024 px, its own size, and so save nothing
        self.vae.tile_sample_min_size = min(self.vae.tile_sample_min_size, TILE)
        self.vae.tile_latent_min_size = min(self.vae.tile_latent_min_size, TILE // self.backbone.vae_factor)

    def disable_vae_tiling(self) -> None:
        """Undo :meth:`enable_vae_tiling`."""
        self.vae.disable_tiling()

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
        guidance_scale: float | None = None,
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
        callback_on_inversion: Progress | None = None,
        return_dict: bool = True,
        prompt_2: str | None = None,
        negative_prompt_2: str | None = None,
        trace: Trace | str | Path | None = None,
    ) -> ConductorOutput | tuple[Any, Tensor]:
        """Make images of ``prompt`` with every concept where the layout has it.

        Args:
            prompt: the base prompt.
            concepts: the concepts, each with its variant of the base prompt.
            layout: the layout reference with a mask or point per concept; needed where there are concepts.
            negative_prompt: what to steer away from, in every path.
            height, width: in pixels, multiples of VAE factor times U-Net downsampling; None: the model's own size.
            num_inference_steps: T.
            guidance_scale: classifier-free guidance; 1 switches it off, None is the model's own (7.5, 1.5 for `mini`).
            num_images_per_prompt: number of images.
            generator: one draws all images' noise in order, a list gives one each.
            latents: initial noise ``(images, 4, h, w)`` instead of drawing it.
            alignment, refinement, injection: the method's parts; None switches one off.
            inversion: of the layout reference.
            placement: place the concepts in a given image.
            paths_per_forward: None for all paths at once; 1 needs least memory.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: ``callback(pipe, step, timestep, tensors)`` after scheduler and placement;
                returned ``latents`` replace the step's.
            callback_on_step_end_tensor_inputs: what it is given; only "latents".
            callback_on_inversion: ``callback(done, total)`` after each inversion step of a layout reference or
                placement that is not cached.
            return_dict: False gives ``(images, masks)``.
            prompt_2, negative_prompt_2: what SDXL's second text encoder reads; None for the same as the first.
            trace: a folder to write a look inside the run to (of the first image); the images stay the same.

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
        settings = resolve_settings(
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
        inputs = prepare_inputs(
            backbone,
            settings,
            Prompts(prompt, negative_prompt, prompt_2, negative_prompt_2),
            size=size,
            latents=noise,
            concepts=concepts,
            layout=layout,
            placement=placement,
        )

        look_inside: Any = nullcontext()
        if trace is not None:
            from concept_conductor.tracing.tracer import tracing

            if self.safety_checker is not None:
                raise ConductorError(
                    "there is no trace with this checkpoint: its safety checker judges finished images"
                )
            wanted = trace if isinstance(trace, Trace) else Trace(trace)
            look_inside = tracing(wanted, backbone, settings, prompt, concepts, layout)
        step: Step | None = None
        first: Masks | None = None
        with (
            look_inside as tracer,
            self.progress_bar(total=settings.steps) as bar,
            closing(
                sample(backbone, inputs, settings, callback_on_inversion, () if tracer is None else tracer.observed)
            ) as steps,
        ):
            replaced: Tensor | None = None
            for _ in range(settings.steps):
                step = steps.send(replaced)
                first = step.masks.fused if first is None else first
                bar.update()
                if tracer is not None:
                    tracer.add(step)
                changes = None
                if callback_on_step_end is not None:
                    changes = callback_on_step_end(self, step.index, step.timestep, {"latents": step.latents})
                replaced = (changes or {}).get("latents")
        assert step is not None
        final = step.latents if replaced is None else replaced
        images, flagged = postprocess(backbone, final, size, placement, self.safety_checked, output_type)
        self.maybe_free_model_hooks()
        masks = regions(step.masks.fused, settings.injection).grid.cpu()
        if not return_dict:
            return images, masks
        assert first is not None
        return ConductorOutput(images, masks, flagged, regions(first, settings.injection).grid.cpu())

    def safety_checked(self, images: list[Image.Image]) -> tuple[list[Image.Image], list[bool] | None]:
        """Black out what the checkpoint's own safety checker refuses; None instead of verdicts without one."""
        if self.safety_checker is None:
            return images, None
        return black_out(images, self.safety_checker, self.feature_extractor, self._execution_device)


def load_model(model: str | Path, **kwargs: Any) -> ConceptConductorPipeline:
    """Load what a recipe means by its model: what ``from_pretrained`` takes, or a checkpoint in one file.

    Raises:
        ConductorError: see there, and at ``from_single_file``.
    """
    # a name such as `mini` or a hub id may be some file's as well
    single = Path(model).is_file() and (isinstance(model, Path) or model.endswith(CHECKPOINTS))
    load = ConceptConductorPipeline.from_single_file if single else ConceptConductorPipeline.from_pretrained
    return load(model, **kwargs)
