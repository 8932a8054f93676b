"""The grounder that fits a model."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.choose import default_grounder
from concept_conductor.grounding.grounded_sam import GroundedSam
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.mini import JUDGE_FILE, MODEL_FOLDER, is_embedded, judge_file


def test_models_with_a_judge_are_seen_by_it(tmp_path: Path) -> None:
    shutil.copy(JUDGE_FILE, tmp_path)
    for model in ("mini", MODEL_FOLDER, tmp_path):
        assert isinstance(default_grounder(model), JudgeGrounder)
    shipped, threshold = default_grounder("mini"), default_grounder("mini", threshold=0.7)
    assert shipped.identity() != threshold.identity()


def test_other_models_are_seen_by_grounded_sam(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    for model in ("owner/name", tmp_path):
        assert isinstance(default_grounder(model, cpu), GroundedSam)
    found = default_grounder("owner/name", cpu, 0.4, local_files_only=True)
    assert isinstance(found, GroundedSam)
    assert (found.box_threshold, found.local_files_only) == (0.4, True)
    with pytest.raises(ConductorError, match="threshold of grounding is 2; expected 0 to 1"):
        default_grounder("owner/name", cpu, 2)


def test_only_mini_is_called_mini() -> None:
    assert is_embedded("mini") and is_embedded(Path("mini"))
    assert not is_embedded("mini/dog-noto") and not is_embedded("Mini") and not is_embedded(MODEL_FOLDER)
    assert judge_file("mini") == judge_file(MODEL_FOLDER) == JUDGE_FILE
