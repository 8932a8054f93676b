"""A checkpoint's own safety checker, made from its checked configuration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field
from transformers import CLIPConfig

from concept_conductor.backbones import config_names
from concept_conductor.backbones.component_configs import (
    Channels,
    ComponentConfig,
    Epsilon,
    Heads,
    Only,
    Width,
    check_config,
)
from concept_conductor.backbones.model_files import ModelFiles, first_line
from concept_conductor.errors import ConductorError
from concept_conductor.io.pretrained import pillow_processor

CHECKER, PROCESSOR = "safety_checker", "feature_extractor"

Side = Annotated[int, Field(ge=1, le=4096)]
Level = Annotated[float, Field(ge=-10, le=10)]
Three = Field(min_length=3, max_length=3)


class CheckerConfig(ComponentConfig):
    """What ``safety_checker/config.json`` may say; what it looks for is in its weights."""

    ignored = config_names.CLIP | {"text_config", "text_config_dict", "logit_scale_init_value"}

    projection_dim: Channels = 512
    vision_config: dict[str, Any] = Field(default_factory=dict)
    vision_config_dict: dict[str, Any] | None = None


class VisionConfig(ComponentConfig):
    """Its CLIP image encoder."""

    ignored = config_names.CLIP | {"bos_token_id", "eos_token_id", "pad_token_id", "pruned_heads"}

    hidden_size: Channels = 768
    intermediate_size: Width = 3072
    projection_dim: Channels = 512
    num_hidden_layers: Annotated[int, Field(ge=1, le=64)] = 12
    num_attention_heads: Heads = 12
    num_channels: Annotated[int, AfterValidator(Only(3))] = 3
    image_size: Side = 224
    patch_size: Side = 32
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5


class ProcessorConfig(ComponentConfig):
    """What ``feature_extractor/preprocessor_config.json`` may say."""

    ignored = frozenset({
        "feature_extractor_type", "image_processor_type", "processor_class", "_processor_class",
        "_valid_processor_keys", "data_format", "input_data_format", "return_tensors", "device", "disable_grouping",
    })  # fmt: skip

    size: Side | Annotated[dict[Literal["shortest_edge", "height", "width"], Side], Field(max_length=2)] = 224
    crop_size: Side | Annotated[dict[Literal["height", "width"], Side], Field(max_length=2)] = 224
    do_resize: bool = True
    do_center_crop: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_convert_rgb: bool = True
    resample: Annotated[int, Field(ge=0, le=5)] = 3
    rescale_factor: Annotated[float, Field(gt=0, le=1)] = 1 / 255
    image_mean: Annotated[list[Level], Three] | None = None
    image_std: Annotated[list[Level], Three] | None = None


def make_checker(files: ModelFiles) -> Any:
    """Make the checker of a model folder without data, on the ``meta`` device.

    Raises:
        ConductorError: its configuration is missing, damaged, or describes none.
    """
    # here, because few models have one and it takes long to load
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    name = f"{CHECKER}/config.json"
    source = str(files.root / name)
    config = check_config(CheckerConfig, files.json(name), source)
    vision = {**config.get("vision_config", {}), **(config.get("vision_config_dict") or {})}
    vision = check_config(VisionConfig, vision, f"{source}: vision_config")
    try:
        with torch.device("meta"):
            made = CLIPConfig(vision_config=vision, text_config={}, projection_dim=config.get("projection_dim", 512))
            return StableDiffusionSafetyChecker(made).eval()
    except Exception as error:  # numbers in range that do not fit each other
        raise ConductorError(
            f"'{source}' describes no safety checker that can be made ({first_line(error)}); get the model again"
        ) from error


def make_processor(files: ModelFiles) -> Any:
    """Make what prepares images for the checker.

    Raises:
        ConductorError: its configuration is missing, damaged, or describes none.
    """
    name = f"{PROCESSOR}/preprocessor_config.json"
    config = check_config(ProcessorConfig, files.json(name), str(files.root / name))
    return pillow_processor("CLIPImageProcessor")(**config)
