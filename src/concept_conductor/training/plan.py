"""A recipe's numbers on a certain model: where the recipe is silent, the base model's hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from concept_conductor.backbones.base import Backbone
from concept_conductor.errors import ConductorError
from concept_conductor.settings import LearningRates, Ranks
from concept_conductor.training.captions import TOKEN
from concept_conductor.training.config import Precision, TrainingConfig


@dataclass(frozen=True)
class Plan:
    """One training, every number known.

    Attributes:
        steps, batch, resolution, precision, gradient_checkpointing: see :class:`TrainingConfig`.
        norm_thresholds: for each text encoder.
        embedding_rates, text_rates, unet_rate: learning rates, the first two for each text encoder.
        text_ranks, unet_rank: likewise.
    """

    steps: int
    batch: int
    resolution: int
    precision: Precision
    gradient_checkpointing: bool
    norm_thresholds: tuple[float, ...]
    embedding_rates: tuple[float, ...]
    text_rates: tuple[float, ...]
    unet_rate: float
    text_ranks: tuple[int, ...]
    unet_rank: int

    @classmethod
    def of(cls, config: TrainingConfig, backbone: Backbone, images: int) -> Plan:
        """Make the recipe's plan on this model with so many images.

        Raises:
            ConductorError: it does not fit the model.
        """
        usual, encoders = backbone.defaults.training, len(backbone.text_encoders)
        rates = LearningRates.model_validate(given(usual.learning_rates) | given(config.learning_rates))
        rank = Ranks.model_validate(given(usual.rank) | given(config.rank))
        assert rates.embeddings and rates.text_encoder and rates.unet is not None  # the family's are filled
        assert rank.text_encoder and rank.unet
        batch = config.batch or usual.batch
        cuda = Precision(usual.cuda_precision) if backbone.device.type == "cuda" else Precision.fp32
        checkpointing = config.gradient_checkpointing
        plan = cls(
            steps=config.steps or max(1, round(usual.samples_per_image * images / batch)),
            batch=batch,
            resolution=config.resolution or int(backbone.unet.config.sample_size) * backbone.vae_factor,
            precision=config.precision or cuda,
            gradient_checkpointing=usual.gradient_checkpointing if checkpointing is None else checkpointing,
            norm_thresholds=for_each("norm_threshold", config.norm_threshold or usual.norm_threshold, encoders),
            embedding_rates=for_each("learning_rates.embeddings", rates.embeddings, encoders),
            text_rates=for_each("learning_rates.text_encoder", rates.text_encoder, encoders),
            unet_rate=rates.unet,
            text_ranks=for_each("rank.text_encoder", rank.text_encoder, encoders),
            unet_rank=rank.unet,
        )
        plan.check(config, backbone)
        return plan

    def check(self, config: TrainingConfig, backbone: Backbone) -> None:
        """Look whether the model can do it.

        Raises:
            ConductorError: it cannot, for one reason.
        """
        if self.resolution % backbone.size_multiple:
            raise ConductorError(
                f"the resolution {self.resolution} does not fit this model; take a multiple of {backbone.size_multiple}"
            )
        if self.precision is Precision.fp32 and backbone.dtype != torch.float32:
            raise ConductorError(
                f"the model is loaded in {str(backbone.dtype).removeprefix('torch.')} but precision is fp32; "
                "load it in float32, or set precision to fp16 or bf16"
            )
        if self.precision is Precision.fp16 and backbone.device.type == "cpu":
            raise ConductorError("precision fp16 needs a CUDA device; take bf16 or fp32 on a CPU")
        for prompt in config.samples.prompts:
            if TOKEN not in prompt:
                raise ConductorError(f"the sample prompt '{prompt}' lacks {TOKEN}, which stands for the placeholders")


def given(settings: LearningRates | Ranks) -> dict[str, Any]:
    """Return the fields that are set to something."""
    return settings.model_dump(exclude_none=True)


def for_each(name: str, values: Sequence[Any], encoders: int) -> tuple[Any, ...]:
    """Return ``values`` for each text encoder, one value standing for all."""
    if len(values) not in (1, encoders):
        raise ConductorError(
            f"{name} has {len(values)} numbers, but this model has {encoders} text encoder"
            f"{'s' if encoders > 1 else ''}; give one number, or one for each"
        )
    return tuple(values) * (encoders // len(values))
