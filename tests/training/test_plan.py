"""What a training does: what its recipe says, and the base model's own values where it is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from concept_conductor.backbones.base import Backbone
from concept_conductor.errors import ConductorError
from concept_conductor.training.config import TrainingConfig
from concept_conductor.training.plan import Plan
from tests.training.test_config import written


def test_where_a_recipe_is_silent_the_base_model_decides(
    tmp_path: Path, backbone: Backbone, backbone_xl: Backbone
) -> None:
    config = TrainingConfig.load(written(tmp_path), {"class_word": "a", "resolution": 64, "model": "x"})
    small, large = Plan.of(config, backbone, 4), Plan.of(config, backbone_xl, 4)
    assert small.steps == 1000  # 250 steps for each image at batch 2
    assert (small.batch, small.unet_rate, small.unet_rank, small.precision.value) == (2, 1e-4, 4, "fp32")
    assert (small.embedding_rates, small.text_rates, small.text_ranks) == ((1e-3,), (1e-5,), (4,))
    assert small.norm_thresholds == (0.55,) and not small.gradient_checkpointing
    assert large.steps == 8000  # 2000 steps for each image, one image a step
    assert (large.batch, large.unet_rate, large.unet_rank) == (1, 5e-5, 32)
    assert (large.embedding_rates, large.text_rates, large.text_ranks) == ((1e-3, 5e-4), (1e-5, 2e-6), (4, 32))
    assert large.norm_thresholds == (0.55, 1.5) and large.gradient_checkpointing


def test_what_a_recipe_says_holds(tmp_path: Path, backbone: Backbone, backbone_xl: Backbone) -> None:
    own = {"steps": 7, "rank": 3, "learning_rates": {"embeddings": [1, 2]}, "norm_threshold": 9, "resolution": 64}
    config = TrainingConfig.load(written(tmp_path, **own))
    plan = Plan.of(config, backbone_xl, 4)
    assert (plan.steps, plan.text_ranks, plan.unet_rank) == (7, (3, 3), 3)
    assert (plan.embedding_rates, plan.text_rates, plan.norm_thresholds) == ((1, 2), (1e-5, 2e-6), (9, 9))
    with pytest.raises(ConductorError, match=r"learning_rates.embeddings has 2 numbers.* 1 text encoder;"):
        Plan.of(config, backbone, 4)
