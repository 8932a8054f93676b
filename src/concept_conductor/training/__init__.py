"""Train a concept from a few images: ED-LoRA by Mix-of-Show's recipe."""

from __future__ import annotations

from concept_conductor.training.config import TrainingConfig
from concept_conductor.training.trainer import Trainer, TrainingStep, train

__all__ = ["Trainer", "TrainingConfig", "TrainingStep", "train"]
