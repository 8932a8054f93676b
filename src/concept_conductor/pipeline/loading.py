"""Loading checkpoints with diffusers, and what to say where that fails."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.defaults import MODEL_SETTINGS_FILE, Defaults
from concept_conductor.errors import ConductorError, FamilyError

#: What ``DiffusionPipeline.load_config`` understands of a loader's arguments.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")

#: What diffusers calls the checkpoints it can tell apart -> the pipeline that loads them.
SINGLE_FILES = {
    "v1": StableDiffusionPipeline,
    "v2": StableDiffusionPipeline,
    "xl_base": StableDiffusionXLPipeline,
}

#: How the names of tensors start that only concept files have.
PARTS_OF_CONCEPTS = ("lora_", "unet.", "text_encoder.", "text_encoder_2.", "base_model.")


def pretrained(model: str | Path, kwargs: dict[str, Any]) -> DiffusionPipeline:
    """Load a diffusers folder or hub id; its ``model_index.json`` is looked at before anything large is fetched.

    Raises:
        ConductorError: there is no such model.
        FamilyError: it is of no supported family.
    """
    folder = Path(model)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ConductorError(
            f"'{model}' is no diffusers folder (it has no model_index.json); for a single checkpoint file "
            "use from_single_file, and save_pretrained where a folder is needed"
        )
    try:
        index = DiffusionPipeline.load_config(
            str(model), **{name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        )
        check_index(index, str(model))
        return DiffusionPipeline.from_pretrained(str(model), **with_dtype(kwargs))
    except OSError as error:
        raise ConductorError(
            f"the model '{model}' could not be loaded ({first_line(error)}); "
            "give 'mini', a diffusers folder, or a hub id that can be reached"
        ) from error


def check_index(index: dict[str, Any], model: str) -> None:
    """Refuse a pipeline whose parts are of other kinds than the supported families'."""
    parts = {name: entry[1] for name, entry in index.items() if isinstance(entry, list | tuple) and len(entry) == 2}
    if parts.get("unet") != "UNet2DConditionModel" or parts.get("text_encoder") != "CLIPTextModel":
        raise FamilyError(
            f"'{model}' is a {index.get('_class_name', 'pipeline of an unknown kind')}; expected a Stable Diffusion "
            "1.x, 2.x or XL (base) model, with a U-Net and CLIP text encoders"
        )


def single_file(file: str | Path, kwargs: dict[str, Any]) -> DiffusionPipeline:
    """Load a checkpoint kept in one file, or its URL.

    Raises:
        ConductorError: there is no such file, it is damaged, or its configuration is out of reach.
        FamilyError: it is of no supported family.
    """
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    if not Path(file).is_file() and not str(file).startswith(("http://", "https://")):
        raise ConductorError(f"there is no checkpoint file '{file}'")
    kind = _kind(file, {name: value for name, value in kwargs.items() if name in HUB_OPTIONS})
    if kind not in SINGLE_FILES:
        raise FamilyError(
            f"the checkpoint '{file}' is of the kind '{kind}'; expected Stable Diffusion 1.x, 2.x or XL (base)"
        )
    try:
        return SINGLE_FILES[kind].from_single_file(str(file), **with_dtype(kwargs))
    except OSError as error:
        raise ConductorError(
            f"the checkpoint '{file}' could not be loaded ({first_line(error)}); where the hub, from which its "
            "configuration comes, cannot be reached, give config=, a diffusers folder of the same family, to "
            "from_single_file, and for recipes save what you get by save_pretrained"
        ) from error
    except torch.OutOfMemoryError:
        raise
    except (SingleFileComponentError, ValueError, KeyError, RuntimeError) as error:  # what does not fit together
        reason = first_line(error).partition(". ")[0]
        raise ConductorError(
            f"the checkpoint '{file}' could not be loaded ({reason}); expected all weights of a Stable Diffusion 1.x, "
            "2.x or XL (base) model, and in config=, where it is given, a diffusers folder of the same family"
        ) from error


def _kind(file: str | Path, options: dict[str, Any]) -> str:
    """What diffusers calls a checkpoint of these weights."""
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    try:
        weights = load_single_file_checkpoint(str(file), **options)
    except (OSError, ValueError) as error:
        why = f"{first_line(error)}; check the address and the connection, or give a file"
        if Path(file).is_file():
            why = "it is damaged, or holds more than weights, which is never unpickled; get it again, as safetensors"
        raise ConductorError(f"the checkpoint '{file}' could not be read: {why}") from error
    if not isinstance(weights, dict) or any(str(key).startswith(PARTS_OF_CONCEPTS) for key in weights):
        raise ConductorError(f"'{file}' is no checkpoint; a concept's file belongs among the concepts")
    kind: str = infer_diffusers_model_type(weights)
    return kind


def save(
    components: dict[str, Any], family: type[Backbone], defaults: Defaults, folder: Path, kwargs: dict[str, Any]
) -> None:
    """Write a model as a diffusers folder, with a ``conductor.json`` where its settings are not the family's."""
    kind = StableDiffusionXLPipeline if "text_encoder_2" in family.text_parts else StableDiffusionPipeline
    known = inspect.signature(kind.__init__).parameters
    needs = {"requires_safety_checker": components.get("safety_checker") is not None, "add_watermarker": False}
    kind(**components, **{name: value for name, value in needs.items() if name in known}).save_pretrained(
        folder, **kwargs
    )
    if defaults != family.family_defaults:
        (folder / MODEL_SETTINGS_FILE).write_text(defaults.model_dump_json(exclude_none=True, indent=2) + "\n")


def first_line(error: Exception) -> str:
    """The first line of what diffusers says, without its full stop."""
    return str(error).partition("\n")[0].strip().rstrip(".")


def with_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of a loader; diffusers renamed ``torch_dtype`` to ``dtype``, users know both.

    Without one everything is fp32: transformers would take the text encoder's from its file, and it would no
    longer fit the U-Net's.
    """
    named = {"dtype" if name == "torch_dtype" else name: value for name, value in kwargs.items()}
    return {"dtype": torch.float32, **named}
