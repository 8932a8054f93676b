"""What holds where a caller says None: a family's values, or a model folder's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from concept_conductor.backbones.model_files import ModelFiles
from concept_conductor.errors import ConductorError
from concept_conductor.settings import (
    PAPER_GUIDANCE,
    Alignment,
    Injection,
    LearningRates,
    PerEncoder,
    Ranks,
    Refinement,
)

MODEL_SETTINGS_FILE = "conductor.json"


class TrainingDefaults(BaseModel):
    """How a concept is trained on the base model, by Mix-of-Show's recipe.

    Attributes:
        norm_threshold: for each text encoder, the mean L2 norm of a concept's token rows at which they are frozen.
        learning_rates, rank: of the concept's parts.
        batch: samples per step.
        samples_per_image: length of a training: this many samples for each image.
        cuda_precision: number type of the forward on CUDA.
        gradient_checkpointing: recompute activations instead of keeping them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    norm_threshold: PerEncoder
    learning_rates: LearningRates = LearningRates(embeddings=(1e-3,), text_encoder=(1e-5,), unet=1e-4)
    rank: Ranks = Ranks(text_encoder=(4,), unet=4)
    batch: int = Field(default=2, ge=1)
    samples_per_image: int = Field(default=500, ge=1)
    cuda_precision: Literal["fp16", "bf16"] = "fp16"
    gradient_checkpointing: bool = False


class Defaults(BaseModel):
    """What the method uses where a setting is None.

    Attributes:
        layout_layer: self-attention layer whose keys are the layout feature.
        mask_layer: self-attention layer whose probabilities are clustered into masks.
        word_layer: cross-attention layer in which a trace shows where words act.
        alignment: step size, concept weight and window of layout alignment.
        injection: where concepts are injected.
        refinement: window, rhythm and overlap threshold of mask refinement.
        guidance_scale: classifier-free guidance, at least 1.
        training: the base model's values for the trainer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    layout_layer: str
    mask_layer: str
    word_layer: str
    alignment: Alignment
    injection: Injection = Injection(blocks=("up",), margin=0.0)
    refinement: Refinement
    guidance_scale: float = Field(default=PAPER_GUIDANCE, ge=1)
    training: TrainingDefaults

    def overridden(self, own: Mapping[str, Any]) -> Defaults:
        """Return these defaults with a model folder's own values put over them."""
        merged = self.model_dump(exclude_none=True)
        for key, value in own.items():
            merged[key] = {**merged[key], **value} if isinstance(value, dict) and key in merged else value
        return Defaults.model_validate(merged)


def read_model_settings(folder: Path, family: Defaults) -> Defaults:
    """Return the family's defaults with those of ``folder/conductor.json`` over them, where the file exists.

    Raises:
        ConductorError: the file is damaged, no ordinary file, or names an unknown setting.
    """
    files = ModelFiles(folder)
    if files.find(MODEL_SETTINGS_FILE) is None:
        return family
    file = folder / MODEL_SETTINGS_FILE
    try:
        return family.overridden(files.json(MODEL_SETTINGS_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConductorError(f"{file}: '{field}': {first['msg']}; mend or remove that line") from error
    except TypeError as error:  # a group of settings where one value belongs
        raise ConductorError(f"{file}: a setting holds a group of others ({error}); mend or remove it") from error
