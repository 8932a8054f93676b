"""What one training is: CONCEPT.yaml, checked once and then trusted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from concept_conductor.concepts.formats.convert import ConceptFormat
from concept_conductor.concepts.formats.validation import check_placeholder
from concept_conductor.errors import ConceptFileError
from concept_conductor.io.documents import read_document
from concept_conductor.io.files import CHECKPOINTS
from concept_conductor.settings import LearningRates, PerEncoder, Ranks

#: Fields that are paths.
PATHS = ("images", "masks", "output")
#: Standard deviation of the first placeholder's random vectors.
RANDOM_SIGMA = 0.013

NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class TrainingSettings(BaseModel):
    """Base of all training settings: immutable, no unknown names, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Precision(str, Enum):
    """A number type."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.value]


class Augmentation(TrainingSettings):
    """How an image varies from step to step (:mod:`.augmentation`).

    Attributes:
        crop: how often an image is cropped.
        padding: put the image at a random place on a black canvas, on which even a square has a pixel to move by;
            off: fill the canvas with the largest square, which spares small images the scaling.
        templates: captions are put into one of these, ``{}`` being the caption: "objects", "people", or a list.
        shuffle: shuffle a caption's comma-separated phrases after the first.
    """

    crop: Fraction = 0.5
    padding: bool = True
    templates: str | tuple[str, ...] = "objects"
    shuffle: bool = True

    @field_validator("templates")
    @classmethod
    def _known(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        from concept_conductor.training.captions import TEMPLATES

        if isinstance(value, str) and value not in TEMPLATES:
            raise ValueError(
                f"there are no templates '{value}'; expected {' or '.join(TEMPLATES)}, or a list of your own"
            )
        if not isinstance(value, str) and (not value or any(text.count("{}") != 1 for text in value)):
            raise ValueError("expected at least one template, and '{}' in each where the caption goes")
        return value


class Regularisation(TrainingSettings):
    """Attention regularisation: the placeholders look at the subject only.

    Attributes:
        weight: its share in the loss; 0 switches it off.
        full_identity: the second placeholder's attention shall cover the whole subject (mean square error).
    """

    weight: NotNegative = 0.01
    full_identity: bool = False


class Samples(TrainingSettings):
    """Images made on the way: one row per prompt, one column per weight.

    Attributes:
        prompts: with ``<TOK>`` for the placeholders; none for no images.
        every: steps between grids; None for every quarter of the training.
        weights: of the low-rank weights, one column each.
        steps, guidance_scale, seed: of the sampler.
    """

    prompts: tuple[str, ...] = ("a photo of a <TOK>",)
    every: Count | None = None
    weights: tuple[NotNegative, ...] = (0.0, 0.7, 1.0)
    steps: Count = 25
    guidance_scale: Annotated[float, Field(ge=1)] = 7.5
    seed: int = 0


class TrainingConfig(TrainingSettings):
    """One concept's training.

    Attributes:
        model: "mini", a diffusers folder, a hub id, or a checkpoint in one file.
        images: folder of 1 to 30 images, optionally with captions ``stem.txt`` (first line; ``<TOK>`` stands for
            the placeholders).
        masks: folder of masks of the subject, ``stem.png`` (white on black), for all images or some; None for
            ``masks/`` inside ``images`` where that exists.
        output: the concept file; beside it, ``output`` with the suffix ``.training`` is the folder of checkpoint,
            samples and curves.
        format: of ``output``.
        file_precision: number type of the tensors in it.
        name: the concept's short name; None for that of ``output``.
        placeholders: what stands for the concept in prompts.
        class_word: what the subject is, one word that the model knows.
        initialiser: for each placeholder a token that the model knows or ``<rand-SIGMA>``; None for
            ``<rand-0.013>`` and then the class word.
        steps: None for as many as the family's recipe has for so many images (SD1.5: 500 samples of each image, 250
            steps at batch 2; SDXL: 2000 steps at batch 1).
        batch: samples per step; None for the base model's.
        resolution: side of the training images; None for the model's own.
        rank: of the low-rank weights, one number or apart for text encoders and U-Net; None for the base model's.
        learning_rates: of AdamW, where they differ from the base model's.
        weight_decay: of AdamW.
        noise_offset: how much the noise of each channel is moved as a whole.
        background: what the loss outside of the subject counts, in 0..1; more keeps the model's backgrounds when
            captions name them.
        norm_threshold: mean norm of the placeholders' vectors at which they are frozen, for each text encoder or one
            for all; None for the base model's (0.55 for SD1.5 and SDXL's first encoder; 1.5 for its second and 1.3 for
            SD2.1 are guesses).
        augmentation, regularisation, samples: see there.
        checkpoint_every: steps between checkpoints.
        precision: of the forward (the concept itself is trained in fp32); None for fp16 (SDXL: bf16) on CUDA, else
            fp32.
        gradient_checkpointing: compute activations again instead of keeping them: far less memory, a third slower;
            None for the base model's (on for SDXL).
        device: None for CUDA where there is one.
        prediction_type: what the base model predicts, where its own files are wrong or silent about it.
        seed: decides everything.
        author, licence: written into the file.
    """

    model: str
    images: Path
    output: Path
    placeholders: tuple[str, ...]
    class_word: str
    masks: Path | None = None
    format: ConceptFormat = ConceptFormat.ours
    file_precision: Precision = Precision.fp32
    name: str | None = None
    initialiser: tuple[str, ...] | None = None
    steps: Count | None = None
    batch: Annotated[int, Field(ge=1, le=64)] | None = None
    resolution: Annotated[int, Field(ge=8, le=4096)] | None = None
    rank: Ranks = Ranks()
    learning_rates: LearningRates = LearningRates()
    weight_decay: NotNegative = 0.01
    noise_offset: NotNegative = 0.01
    background: Fraction = 0.0
    norm_threshold: PerEncoder | None = None
    augmentation: Augmentation = Augmentation()
    regularisation: Regularisation = Regularisation()
    samples: Samples = Samples()
    checkpoint_every: Count = 100
    precision: Precision | None = None
    gradient_checkpointing: bool | None = None
    device: str | None = None
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    author: str | None = None
    licence: str | None = None

    @field_validator("placeholders", "initialiser", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Take ``<a>+<b>`` and ``chow+dog`` for lists too."""
        return value.split("+") if isinstance(value, str) else value

    @field_validator("rank", mode="before")
    @classmethod
    def _everywhere(cls, value: Any) -> Any:
        """Take one number for everyone's rank."""
        return {"text_encoder": value, "unet": value} if isinstance(value, int) else value

    @field_validator("placeholders")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not 1 <= len(value) <= 8 or len(set(value)) != len(value):
            raise ValueError(f"expected 1 to 8 different placeholders, but there are {len(value)}: {', '.join(value)}")
        for name in value:
            if any(other != name and other in name for other in value):
                raise ValueError(f"the placeholder {name} contains another one; write them like <dog_1> and <dog_2>")
            try:
                check_placeholder(Path("the recipe"), name)
            except ConceptFileError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("format")
    @classmethod
    def _holds_layerwise_tokens(cls, value: ConceptFormat) -> ConceptFormat:
        """Refuse a format now and not after hours of training."""
        if value not in (ConceptFormat.ours, ConceptFormat.mixofshow):
            raise ValueError(
                f"trained concepts have tokens for each layer, which '{value.value}' cannot hold; use ours or mixofshow"
            )
        return value

    @model_validator(mode="after")
    def _as_many(self) -> TrainingConfig:
        if self.initialiser is not None and len(self.initialiser) != len(self.placeholders):
            raise ValueError(
                f"there are {len(self.placeholders)} placeholders but {len(self.initialiser)} initialisers; "
                "give one for each"
            )
        return self

    @property
    def initialisers(self) -> tuple[str, ...]:
        """One for each placeholder."""
        random = (f"<rand-{RANDOM_SIGMA}>",) * (len(self.placeholders) - 1)
        return self.initialiser or (*random, self.class_word)

    @property
    def concept_name(self) -> str:
        return self.name or self.output.stem

    @property
    def folder(self) -> Path:
        """Where checkpoint, samples and curves are."""
        return self.output.with_suffix(".training")

    @classmethod
    def load(cls, path: str | Path, changes: Mapping[str, Any] | None = None) -> TrainingConfig:
        """Read CONCEPT.yaml; relative paths in it are relative to it.

        Args:
            path: the file.
            changes: fields to put over those of the file, taken as they are.

        Raises:
            ConductorError: the file is missing, no YAML, or a field is wrong; the sentence names field and line.
        """
        path = Path(path)
        document = read_document(path)
        if isinstance(document.data, dict):
            document.data = {**_from_folder(document.data, path.parent), **(changes or {})}
        return document.validated(cls)


def _from_folder(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the recipe's fields with relative paths counted from its folder."""
    paths: dict[str, Any] = {key: folder / value for key in PATHS if isinstance(value := data.get(key), str)}
    model = data.get("model")
    if isinstance(model, str) and (
        (model.endswith(CHECKPOINTS) and os.path.isfile(folder / model))
        or os.path.isfile(folder / model / "model_index.json")
    ):
        paths["model"] = str(folder / model)
    return {**data, **paths}
