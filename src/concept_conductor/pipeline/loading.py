"""Loading models: folders, hub ids and single files; and saving them as folders."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.defaults import MODEL_SETTINGS_FILE, Defaults
from concept_conductor.backbones.meta import SCHEDULER, UNET, MetaModel
from concept_conductor.backbones.model_files import ModelFiles, first_line
from concept_conductor.backbones.scheduler_config import ddim, make_scheduler
from concept_conductor.errors import ConductorError, FamilyError
from concept_conductor.pipeline.load_options import LoadOptions
from concept_conductor.pipeline.model_folder import ModelSetup, load_folder, opened_weights
from concept_conductor.pipeline.model_index import INDEX_FILE, ModelIndex
from concept_conductor.pipeline.safety_checker import CHECKER, PROCESSOR
from concept_conductor.pipeline.single_file import Checkpoint, open_checkpoint
from concept_conductor.pipeline.weights import fill

HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
#: The files of a model but its weights.
CONFIGURATION = ("*.json", "*.txt", "*/*.json", "*/*.txt")
#: Family -> the model on the hub whose configuration its single files have.
CONFIGURED_AS = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "stabilityai/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
SCHEDULE_TOLERANCE = 5e-3
"""Of a noise schedule that may be stored in half precision."""
SD2_BASE_SIZE = 64
"""Latents on a side of SD2's base model, which predicts noise."""


def pretrained(model: str | Path, kwargs: Mapping[str, Any]) -> tuple[DiffusionPipeline, Path]:
    """Load a diffusers folder or hub id, and return the folder too; nothing is loaded before all of it is checked.

    Raises:
        ConductorError: there is no such model, or something in it is missing, damaged or not honoured; one sentence.
        FamilyError: it is of no supported family.
    """
    options = LoadOptions.of(kwargs)
    folder = model_folder(model, options)
    setup = folder_setup(folder, options)
    choice = {"variant": options.variant, "safetensors": options.use_safetensors}
    return load_folder(setup, options.dtypes, **choice), folder


def folder_setup(folder: Path, options: LoadOptions) -> ModelSetup:
    """Read a model folder as the options want it.

    Raises:
        ConductorError: as for :func:`pretrained`.
    """
    setup = ModelSetup.read(folder, options.given).predicting(options.prediction_type)
    if options.force_zeros is None:
        return setup
    return replace(setup, index=replace(setup.index, force_zeros=bool(options.force_zeros)))


def model_folder(model: str | Path, options: LoadOptions) -> Path:
    """Return where a model lies; a hub's is fetched, after its index has been looked at.

    Raises:
        ConductorError: there is none.
        FamilyError: it is of no supported family.
    """
    folder, name = Path(model), str(model)
    if os.path.exists(name):
        if not os.path.lexists(folder / INDEX_FILE):
            raise ConductorError(
                f"'{model}' is no diffusers folder (it has no {INDEX_FILE}); for a single checkpoint file use "
                "from_single_file, and save_pretrained where a folder is needed"
            )
        return folder
    if not HUB_ID.fullmatch(name):
        raise ConductorError(
            f"there is no model '{name:.200}'; expected 'mini', a diffusers folder, or a hub id 'owner/name'"
        )
    from huggingface_hub import hf_hub_download

    try:
        index = Path(hf_hub_download(name, INDEX_FILE, **options.hub))
    except Exception as error:  # hub and network: huggingface_hub and httpx raise many kinds
        raise unavailable(f"the model '{name}'", error) from error
    ModelIndex.read(ModelFiles(index.parent).json(INDEX_FILE), name)
    choice = {"variant": options.variant, "use_safetensors": options.use_safetensors}
    try:
        return Path(DiffusionPipeline.download(name, **choice, **options.hub, **options.given))
    except Exception as error:  # as above
        raise unavailable(f"the model '{name}'", error) from error


def unavailable(what: str, error: Exception) -> ConductorError:
    """Return the sentence about something of the hub's that cannot be had."""
    return ConductorError(
        f"{what} could not be loaded ({first_line(error)}); give 'mini', a diffusers folder, or a hub id that can be "
        "reached"
    )


def single_file(file: str | Path, kwargs: Mapping[str, Any]) -> DiffusionPipeline:
    """Load a checkpoint kept in one file, or its address on the hub.

    Raises:
        ConductorError: there is no such file, something in it is missing, damaged or not honoured, or its
            configuration is out of reach.
        FamilyError: it is of no supported family.
    """
    options = LoadOptions.of(kwargs)
    with open_checkpoint(checkpoint_file(file, options)) as checkpoint:
        setup = checkpoint_setup(checkpoint, options)
        networks = setup.networks()
        for name, stored in checkpoint.match(networks).items():
            fill(networks[name], stored, options.dtypes.get(name, options.dtypes["default"]))
    return setup.pipeline(networks)


def checkpoint_file(file: str | Path, options: LoadOptions) -> Path:
    """Return where a checkpoint lies; one of the hub's is fetched.

    Raises:
        ConductorError: there is none.
    """
    if os.path.exists(file) or not str(file).startswith(("http://", "https://")):
        if not os.path.isfile(file):
            raise ConductorError(f"there is no checkpoint file '{file!s:.200}'")
        return Path(file)
    from diffusers.loaders.single_file_utils import _extract_repo_id_and_weights_name
    from huggingface_hub import hf_hub_download

    try:
        repository, name = _extract_repo_id_and_weights_name(str(file))
        return Path(hf_hub_download(repository, name, **options.hub))
    except Exception as error:  # hub and network: huggingface_hub and httpx raise many kinds
        raise ConductorError(
            f"the checkpoint '{file}' could not be read: {first_line(error)}; check the address and the connection, or "
            "give a file"
        ) from error


def checkpoint_setup(checkpoint: Checkpoint, options: LoadOptions) -> ModelSetup:
    """Return all of a checkpoint's model but its weights, with what the checkpoint says of its noise.

    Raises:
        ConductorError: its configuration is out of reach or does not fit, or nobody says what it predicts.
        FamilyError: its configuration is of another family.
    """
    given = {CHECKER: None, PROCESSOR: None, **options.given}
    setup = ModelSetup.read(configuration(checkpoint, options), given)
    if ("text_encoder_2" in setup.index.parts) != (checkpoint.family == "sdxl"):
        raise FamilyError(
            f"{checkpoint.what} is of the family {checkpoint.family}, but its configuration is of another; expected in "
            "config=, where it is given, a diffusers folder of the same family"
        )
    if SCHEDULER in given:
        return setup
    prediction = options.prediction_type or checkpoint.prediction
    if prediction is None and checkpoint.family == "sd21" and options.config is None:
        raise ConductorError(
            f"{checkpoint.what} is a Stable Diffusion 2.x model that does not say what it predicts; give "
            "prediction_type='v_prediction' (models for 768 px) or 'epsilon' (base models, for 512 px), which recipes "
            "have as a field too"
        )
    if checkpoint.zero_snr and (prediction or setup.prediction) != "v_prediction":
        raise ConductorError(
            f"{checkpoint.what} is marked as beginning with pure noise ('ztsnr'), of which only velocity tells "
            "anything; expected it with prediction_type='v_prediction'"
        )
    if prediction == "epsilon" and checkpoint.family == "sd21" and options.config is None:
        configs = setup.meta.configs
        base = {**configs, UNET: {**configs[UNET], "sample_size": SD2_BASE_SIZE}}
        setup = replace(setup, meta=replace(setup.meta, configs=base))
    setup = setup.predicting(prediction or setup.prediction, zero_snr=checkpoint.zero_snr)
    return with_schedule_of(checkpoint, setup)


def with_schedule_of(checkpoint: Checkpoint, setup: ModelSetup) -> ModelSetup:
    """Return the setup with zero terminal SNR where the noise schedule in the checkpoint has it.

    Raises:
        ConductorError: that schedule is another than the configuration's.
    """
    if checkpoint.alphas is None:
        return setup
    stored = checkpoint.alphas.read().float()
    velocity = {**setup.meta.configs[SCHEDULER], "prediction_type": "v_prediction"}

    def equals(zero_snr: bool) -> bool:
        own = ddim(make_scheduler({**velocity, "rescale_betas_zero_snr": zero_snr})).alphas_cumprod
        return stored.shape == own.shape and bool(torch.allclose(stored, own, atol=SCHEDULE_TOLERANCE, rtol=0))

    if equals(zero_snr=False):
        return setup
    if equals(zero_snr=True) and setup.prediction == "v_prediction":
        return setup.predicting("v_prediction", zero_snr=True)
    raise ConductorError(
        f"{checkpoint.what} holds another noise schedule ('alphas_cumprod') than its configuration; expected in "
        "config= the folder of a model that was trained with that schedule"
    )


def configuration(checkpoint: Checkpoint, options: LoadOptions) -> Path:
    """Return the folder that a checkpoint's configuration is in, from the hub where need be.

    Raises:
        ConductorError: it cannot be had.
    """
    name = options.config or CONFIGURED_AS[checkpoint.family]
    if options.config is not None and os.path.isdir(name):
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        if not HUB_ID.fullmatch(name):
            raise ConductorError(f"there is no folder '{name:.200}'")
        return Path(snapshot_download(name, allow_patterns=list(CONFIGURATION), **options.hub))
    except Exception as error:  # hub and network: huggingface_hub and httpx raise many kinds
        raise ConfigurationError(
            f"{checkpoint.what} could not be loaded ({first_line(error)}); where the hub, from which its configuration "
            "comes, cannot be reached, give config=, a diffusers folder of the same family, to from_single_file, and "
            "for recipes save what you get by save_pretrained; expected in config=, where it is given, a diffusers "
            "folder of the same family"
        ) from error


class ConfigurationError(ConductorError):
    """The configuration of a checkpoint in one file cannot be had."""


def describe(model: Path, dtype: torch.dtype, prediction_type: str | None = None) -> Backbone:
    """Check a model's files as loading does, and return it without data; nothing is fetched.

    Args:
        model: a folder, or a checkpoint in one file. Where the configuration of that is not on this machine, it is
            taken to be as its family was published.
        dtype: to load it in.
        prediction_type: instead of its own.

    Raises:
        ConductorError: what loading would say.
    """
    options = LoadOptions.of({"local_files_only": True, "prediction_type": prediction_type})
    if model.is_dir():
        setup = folder_setup(model_folder(model, options), options)
        networks = setup.networks()
        with opened_weights(setup, networks):
            pass  # everything has been checked
        known = {name: part for name, part in networks.items() if name != CHECKER}
        return setup.meta.backbone(dtype, known, setup.tokenizers)
    with open_checkpoint(checkpoint_file(model, options)) as checkpoint:
        try:
            setup = checkpoint_setup(checkpoint, options)
        except ConfigurationError:
            return MetaModel.published(checkpoint.family).backbone(dtype)
        networks = setup.networks()
        checkpoint.match(networks)
    return replace(setup.meta, folder=None).backbone(dtype, networks, setup.tokenizers)


def save(
    components: dict[str, Any],
    family: type[Backbone],
    defaults: Defaults,
    folder: Path,
    kwargs: dict[str, Any],
    *,
    force_zeros: bool = False,
) -> None:
    """Write a model as a diffusers folder, with a ``conductor.json`` where its settings are not the family's.

    Args:
        components: of the family's diffusers pipeline.
        family: the model's.
        defaults: its settings.
        folder: to write.
        kwargs: for diffusers' ``save_pretrained``.
        force_zeros: the pipeline's ``force_zeros_for_empty_prompt``.
    """
    kind = StableDiffusionXLPipeline if "text_encoder_2" in family.text_parts else StableDiffusionPipeline
    known = inspect.signature(kind.__init__).parameters
    flags = {
        "requires_safety_checker": components.get("safety_checker") is not None,
        "force_zeros_for_empty_prompt": force_zeros,
        "add_watermarker": False,
    }
    kind(**components, **{name: flag for name, flag in flags.items() if name in known}).save_pretrained(
        folder, **kwargs
    )
    if defaults != family.family_defaults:
        (folder / MODEL_SETTINGS_FILE).write_text(defaults.model_dump_json(exclude_none=True, indent=2) + "\n")
