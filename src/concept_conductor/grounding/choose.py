"""Choose the grounder that fits a model: the judge for `mini`, else Grounded-SAM."""

from __future__ import annotations

from pathlib import Path

import torch

from concept_conductor.grounding.grounded_sam import GroundedSam
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.mini import JUDGE_FILE
from concept_conductor.mini.judge import Judge


def default_grounder(
    model: str | Path, device: str | torch.device | None = None, threshold: float | None = None
) -> Grounder:
    """The judge for "mini" or a model's folder that holds one, else Grounded-SAM.

    Args:
        model: whose images are looked at.
        device: of Grounded-SAM.
        threshold: least score of an object, 0..1; None for the grounder's own.
    """
    shipped = JUDGE_FILE if model == "mini" else Path(model) / JUDGE_FILE.name
    if shipped.is_file():
        return JudgeGrounder(Judge.load(shipped), threshold=threshold or 0.0)
    return GroundedSam(device) if threshold is None else GroundedSam(device, box_threshold=threshold)
