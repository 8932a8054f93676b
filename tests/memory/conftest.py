"""Dry runs of the tiny models, made once."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from concept_conductor import Alignment, Injection, Inversion, Refinement
from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.meta import MetaModel
from concept_conductor.memory.estimate import DryRun, ed_lora
from concept_conductor.pipeline.inputs import resolve_settings
from concept_conductor.settings import SamplingSettings
from tests.conftest import TINY, TINY_XL

FOLDERS = {"sd15": TINY, "sdxl": TINY_XL}


def settings(backbone: Backbone, **changes: Any) -> SamplingSettings:
    usual: dict[str, Any] = {
        "steps": 200, "guidance_scale": 7.5, "alignment": Alignment(), "refinement": Refinement(),
        "injection": Injection(), "inversion": Inversion(), "paths_per_forward": None,
    }  # fmt: skip
    return resolve_settings(backbone.defaults, **{**usual, **changes})


@cache
def dry_run(
    family: str = "sd15", concepts: int = 1, side: int = 128, dtype: torch.dtype = torch.float32, **changes: Any
) -> DryRun:
    """A run of ``concepts`` on the tiny model without data; what it has estimated once is known to all tests."""
    backbone = MetaModel.read(FOLDERS[family]).backbone(dtype)
    return DryRun(backbone, settings(backbone, **changes), (side, side), [ed_lora(backbone)] * concepts)
