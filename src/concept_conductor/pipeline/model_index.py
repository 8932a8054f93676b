"""``model_index.json``: what parts a model folder has, and the pipeline's own flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from concept_conductor.backbones.scheduler_config import SAMPLERS
from concept_conductor.errors import ConductorError, FamilyError

INDEX_FILE = "model_index.json"
EXPECTED = "expected a Stable Diffusion 1.x, 2.x or XL (base) model, with a U-Net and CLIP text encoders"

#: Pipelines that have those parts and compute as these families do.
PIPELINES = (
    "ConceptConductorPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
)
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")
IMAGE_PROCESSORS = ("CLIPImageProcessor", "CLIPFeatureExtractor", "CLIPImageProcessorFast", "CLIPImageProcessorPil")
#: Part -> the classes that it may be of.
CLASSES: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": TOKENIZERS,
    "tokenizer_2": TOKENIZERS,
    "scheduler": SAMPLERS,
    "safety_checker": ("StableDiffusionSafetyChecker",),
    "feature_extractor": IMAGE_PROCESSORS,
    "image_encoder": ("CLIPVisionModelWithProjection",),
}
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")
NEEDED = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
#: The pipeline's own flags that change nothing here, and what they must be to change nothing.
FLAGS: dict[str, tuple[Any, ...]] = {
    "requires_safety_checker": (True, False, None),  # whether to warn where there is none
    "add_watermarker": (True, False, None),
    "is_unet_version_less_0_9_0": (True, False, None),
    "requires_aesthetics_score": (False, None),
}
IGNORED = ("_class_name", "_diffusers_version", "_name_or_path", "_ignore_files", "_module", "vae_scale_factor")


@dataclass(frozen=True)
class ModelIndex:
    """What the index of a model folder says.

    Attributes:
        parts: the parts that are there.
        force_zeros: a negative prompt that is not given is zeros, not an empty text (SDXL).
    """

    parts: tuple[str, ...]
    force_zeros: bool

    @classmethod
    def read(cls, data: Mapping[str, Any], model: str) -> ModelIndex:
        """Check what the index of ``model`` holds.

        Raises:
            FamilyError: the parts or their pipeline are of other kinds than the supported families'.
            ConductorError: it holds something else that is not honoured.
        """
        name = data.get("_class_name")
        if not isinstance(name, str) or name not in PIPELINES:
            raise FamilyError(
                f"'{model}' is a {name if isinstance(name, str) else 'pipeline of an unknown kind':.60}; {EXPECTED}"
            )
        parts = []
        for key, value in data.items():
            if key in CLASSES:
                if _present(value, key, model):
                    parts.append(key)
            elif key in FLAGS:
                if value not in FLAGS[key]:
                    raise FamilyError(f"'{model}' has '{key}' as {value!r:.40} (a refiner?); {EXPECTED}")
            elif key not in IGNORED and key != "force_zeros_for_empty_prompt":
                raise ConductorError(
                    f"'{model}': '{key:.60}' in {INDEX_FILE} is not known here and might change the images; {EXPECTED}"
                )
        if missing := [part for part in NEEDED if part not in parts]:
            raise FamilyError(f"'{model}' has no '{missing[0]}' by its {INDEX_FILE}; {EXPECTED}")
        if ("text_encoder_2" in parts) != ("tokenizer_2" in parts):
            raise FamilyError(f"'{model}' has one of 'text_encoder_2' and 'tokenizer_2' without the other; {EXPECTED}")
        zeros = data.get("force_zeros_for_empty_prompt", "text_encoder_2" in parts)
        if not isinstance(zeros, bool):
            raise ConductorError(
                f"'{model}': 'force_zeros_for_empty_prompt' in {INDEX_FILE} is {zeros!r:.40}; expected true or false"
            )
        return cls(tuple(parts), zeros and "text_encoder_2" in parts)


def _present(value: Any, part: str, model: str) -> bool:
    """Return whether a part is there.

    Raises:
        FamilyError: it is of another class than it may be.
    """
    if value is None or value == [None, None]:
        return False
    if not isinstance(value, list) or len(value) != 2 or value[0] not in LIBRARIES or value[1] not in CLASSES[part]:
        raise FamilyError(
            f"'{model}' has {value!r:.80} as its '{part}'; expected {' or '.join(CLASSES[part][:3])} of diffusers or "
            "transformers, as Stable Diffusion 1.x, 2.x and XL (base) models have it"
        )
    return True
