"""Choose the grounder that fits a model: the judge for `mini`, else Grounded-SAM."""

from __future__ import annotations

from pathlib import Path

import torch

from concept_conductor.grounding.grounded_sam import GroundedSam
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.mini import judge_file
from concept_conductor.mini.judge import Judge


def default_grounder(
    model: str | Path,
    device: str | torch.device | None = None,
    threshold: float | None = None,
    *,
    local_files_only: bool = False,
) -> Grounder:
    """Return the judge for "mini" or a model's folder that holds one, else Grounded-SAM.

    Args:
        model: whose images are looked at.
        device: of Grounded-SAM.
        threshold: least score of an object, 0..1; None for the grounder's own.
        local_files_only: never ask the hub for Grounded-SAM.
    """
    judge = judge_file(model)
    if judge.is_file():
        return JudgeGrounder(Judge.load(judge), threshold=threshold or 0.0)
    if threshold is None:
        return GroundedSam(device, local_files_only=local_files_only)
    return GroundedSam(device, box_threshold=threshold, local_files_only=local_files_only)
