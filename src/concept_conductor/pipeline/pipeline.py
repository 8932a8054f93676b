"""The diffusers-style pipeline, the public entry point."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
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
from concept_conductor.denoiser.exclusive import exclusive
from concept_conductor.denoiser.masks import Masks
from concept_conductor.errors import ConductorError, FamilyError
from concept_conductor.io.files import CHECKPOINTS
from concept_conductor.layouts.layout import Layout
from concept_conductor.method.injection import regions
from concept_conductor.method.inversion import Progress
from concept_conductor.method.sampling import SamplingInputs, sample
from concept_conductor.mini import MODEL_FOLDER, is_embedded
from concept_conductor.pipeline import loading
from concept_conductor.pipeline.call import CALLBACK_TENSORS, PipelineCall, StepCallback
from concept_conductor.pipeline.finite import FiniteLatents
from concept_conductor.pipeline.inputs import Prompts, image_size, initial_latents, prepare_inputs, resolve_settings
from concept_conductor.pipeline.postprocess import black_out, postprocess
from concept_conductor.placement.placement import Placement
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement, SamplingSettings
from concept_conductor.tracing.trace import Trace
from concept_conductor.tracing.tracer import Tracer, tracing


@dataclass
class ConductorOutput(BaseOutput):  # type: ignore[misc]
    """The output of a pipeline call.

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
    """Generate images with any number of personalized concepts.

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
    _callback_tensor_inputs: ClassVar = list(CALLBACK_TENSORS)

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
        force_zeros_for_empty_prompt: bool = False,
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
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt)
        self.family = family_of(components, "the model")
        self.defaults = self.family.family_defaults if defaults is None else defaults

    @classmethod
    def from_pretrained(cls, model: str | Path, **kwargs: Any) -> ConceptConductorPipeline:
        """Load ``"mini"`` (the embedded model), a diffusers folder, or a hub id; its files tell the family.

        Args:
            model: which one.
            kwargs: as for :meth:`diffusers.DiffusionPipeline.from_pretrained`: ``torch_dtype``, ``variant``,
                ``revision`` and what else concerns the hub, components; and ``prediction_type``, "epsilon" or
                "v_prediction", where the model's own scheduler is wrong about it.

        Raises:
            ConductorError: there is no such model, or something in it is missing, damaged or not honoured.
            FamilyError: it is of no supported family.
        """
        if not isinstance(model, str | os.PathLike):
            raise ConductorError(
                f"expected 'mini', a diffusers folder or a hub id to load, but a {type(model).__name__} came"
            )
        pipe, folder = loading.pretrained(MODEL_FOLDER if is_embedded(model) else model, kwargs)
        return cls.from_components(pipe, folder)

    @classmethod
    def from_single_file(cls, file: str | Path, **kwargs: Any) -> ConceptConductorPipeline:
        """Load a checkpoint kept in one ``.safetensors`` or ``.ckpt`` file (or its URL); its weights tell the family.

        Args:
            file: which one.
            kwargs: as for :meth:`from_pretrained`, and ``config``: a diffusers folder of the same family, for machines
                that cannot reach the hub, from which it comes otherwise. ``prediction_type`` is needed for SD2.x
                checkpoints that do not say what they predict.

        Raises:
            ConductorError: there is no such file, something in it is missing, damaged or not honoured, or its
                configuration is out of reach.
            FamilyError: it is of no supported family.
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
        if not isinstance(pipe, DiffusionPipeline):
            raise FamilyError(f"expected a loaded diffusers pipeline, but a {type(pipe).__name__} came")
        family = family_of(pipe.components, f"the {type(pipe).__name__}")
        defaults = family.family_defaults
        return cls(
            **pipe.components,
            defaults=defaults if folder is None else read_model_settings(folder, defaults),
            force_zeros_for_empty_prompt=bool(pipe.config.get("force_zeros_for_empty_prompt")),
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write a folder that this class and the family's own diffusers pipeline load; kwargs go to diffusers."""
        zeros = self.config.force_zeros_for_empty_prompt
        loading.save(self.components, self.family, self.defaults, Path(save_directory), kwargs, force_zeros=zeros)

    @property
    def components(self) -> dict[str, Any]:
        """Return the components that this family's own diffusers pipeline has."""
        parts: dict[str, Any] = super().components
        return {name: part for name, part in parts.items() if part is not None or name not in self.family.foreign_parts}

    @property
    def backbone(self) -> Backbone:
        """Return the model as the method uses it."""
        texts = {name: getattr(self, name) for name in self.family.text_parts}
        return self.family(
            unet=self.unet,
            vae=self.vae,
            scheduler=self.scheduler,
            defaults=self.defaults,
            device=self._execution_device,
            force_zeros=self.config.force_zeros_for_empty_prompt,
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

    def __call__(
        self,
        prompt: str,
        concepts: ConceptPrompt | Iterable[ConceptPrompt] | None = (),
        layout: Layout | None = None,
        negative_prompt: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = 200,
        guidance_scale: float | None = None,
        num_images_per_prompt: int | None = 1,
        generator: torch.Generator | Sequence[torch.Generator] | int | None = None,
        latents: Tensor | np.ndarray | None = None,
        alignment: Alignment | bool | None = True,
        refinement: Refinement | bool | None = True,
        inversion: Inversion | None = None,
        injection: Injection | bool | None = True,
        placement: Placement | None = None,
        paths_per_forward: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        callback_on_inversion: Progress | None = None,
        return_dict: bool = True,
        prompt_2: str | None = None,
        negative_prompt_2: str | None = None,
        trace: Trace | str | Path | None = None,
        chunk_prompts: bool = False,
    ) -> ConductorOutput | tuple[Any, Tensor]:
        """Make images of ``prompt`` with every concept where the layout has it.

        Args:
            prompt: the base prompt.
            concepts: the concepts, each with its variant of the base prompt.
            layout: the layout reference with a mask or point per concept; needed where there are concepts.
            negative_prompt: what to steer away from, in every path; None is an empty text, or zeros where an SDXL
                model has ``force_zeros_for_empty_prompt``, as in diffusers.
            height, width: in pixels, multiples of VAE factor times U-Net downsampling; None: the model's own size.
            num_inference_steps: T, 200 in the paper.
            guidance_scale: classifier-free guidance; 1 switches it off, None is the model's own (7.5, 1.5 for `mini`).
            num_images_per_prompt: number of images.
            generator: one draws all images' noise in order, a list gives one each, a whole number is a seed.
            latents: initial noise ``(images, 4, h, w)`` instead of drawing it.
            alignment, refinement, injection: the method's parts; True is the model's own settings, None or False
                switches one off.
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
            chunk_prompts: encode prompts that are longer than the text encoder reads (77 tokens with start and end) in
                parts; otherwise they are cut, with a warning.

        Returns:
            :class:`ConductorOutput`.

        Raises:
            ConductorError: anything about the input that does not fit, in one sentence, or a run whose numbers
                overflow.
            BusyError: another call is using this model.
        """
        call = PipelineCall.of(
            prompt=prompt, concepts=concepts, layout=layout, negative_prompt=negative_prompt, height=height,
            width=width, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
            num_images_per_prompt=num_images_per_prompt, generator=generator, latents=latents, alignment=alignment,
            refinement=refinement, inversion=inversion, injection=injection, placement=placement,
            paths_per_forward=paths_per_forward, output_type=output_type, callback_on_step_end=callback_on_step_end,
            callback_on_step_end_tensor_inputs=callback_on_step_end_tensor_inputs,
            callback_on_inversion=callback_on_inversion, return_dict=return_dict, prompt_2=prompt_2,
            negative_prompt_2=negative_prompt_2, trace=trace, chunk_prompts=chunk_prompts,
        )  # fmt: skip
        backbone = self.backbone
        # alignment needs gradients, which torch.inference_mode around this call would forbid
        with exclusive(*(encoder.model for encoder in backbone.text_encoders)):
            with torch.inference_mode(False), torch.no_grad():
                output = self._generate(call, backbone)
        self.maybe_free_model_hooks()
        return output if call.return_dict else (output.images, output.masks)

    def _generate(self, call: PipelineCall, backbone: Backbone) -> ConductorOutput:
        """Carry out a validated call."""
        settings = resolve_settings(
            backbone.defaults,
            steps=call.num_inference_steps,
            guidance_scale=call.guidance_scale,
            alignment=call.alignment,
            injection=call.injection,
            refinement=call.refinement if call.concepts else None,
            inversion=call.inversion,
            paths_per_forward=call.paths_per_forward,
        )
        size = image_size(backbone, call.width, call.height)
        call = call.fitted(size)
        noise = initial_latents(backbone, size, call.num_images_per_prompt, call.generator, call.latents)
        inputs = prepare_inputs(
            backbone,
            settings,
            Prompts(call.prompt, call.negative_prompt, call.prompt_2, call.negative_prompt_2),
            size=size,
            latents=noise,
            concepts=call.concepts,
            layout=call.layout,
            placement=call.placement,
            chunk_prompts=call.chunk_prompts,
        )
        with self._tracing(call, backbone, inputs, settings) as tracer:
            first, last, latents = self._sample(call, backbone, inputs, settings, tracer)
        images, flagged = postprocess(backbone, latents, size, call.placement, self.safety_checked, call.output_type)
        masks, layout_masks = (regions(each, settings.injection).grid.cpu() for each in (last, first))
        return ConductorOutput(images, masks, flagged, layout_masks)

    def _sample(
        self,
        call: PipelineCall,
        backbone: Backbone,
        inputs: SamplingInputs,
        settings: SamplingSettings,
        tracer: Tracer | None,
    ) -> tuple[Masks, Masks, Tensor]:
        """Run the loop; return the first and the last step's masks, and the last latents."""
        traced = () if tracer is None else tracer.observed
        finite, first, replaced = FiniteLatents(settings.steps), None, None
        with (
            self.progress_bar(total=settings.steps) as bar,
            closing(sample(backbone, inputs, settings, call.callback_on_inversion, traced)) as steps,
        ):
            for _ in range(settings.steps):
                step = steps.send(replaced)
                first = first or step.masks.fused
                bar.update()
                if tracer is not None:
                    tracer.add(step)
                finite.add(step.latents)
                replaced = None
                if call.callback_on_step_end is not None:
                    returned = call.callback_on_step_end(self, step.index, step.timestep, {"latents": step.latents})
                    replaced = call.replaced_latents(returned, step.latents)
        finite.check()
        latents = step.latents if replaced is None else replaced
        assert first is not None  # there is a step at least
        return first, step.masks.fused, latents

    def _tracing(
        self, call: PipelineCall, backbone: Backbone, inputs: SamplingInputs, settings: SamplingSettings
    ) -> AbstractContextManager[Tracer | None]:
        """Look inside the run, where a trace is asked for."""
        if call.trace is None:
            return nullcontext()
        if self.safety_checker is not None:
            raise ConductorError("there is no trace with this checkpoint: its safety checker judges finished images")
        if call.chunk_prompts and inputs.text.texts.shape[3] > backbone.text_encoders[0].tokenizer.model_max_length:
            raise ConductorError(
                "a trace shows words of prompts that are read at once; leave out chunk_prompts=, or shorten the prompts"
            )
        return tracing(call.trace, backbone, settings, call.prompt, call.concepts, call.layout)

    def safety_checked(self, images: list[Image.Image]) -> tuple[list[Image.Image], list[bool] | None]:
        """Black out unsafe images; return flags, or None without a checker."""
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
