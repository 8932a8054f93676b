"""The table of docs/memory.md: estimated GPU memory of the published models in fp16, in GiB.

``python benchmarks/estimates.py``: minutes on a CPU; no weights are made and nothing is measured.
"""

from __future__ import annotations

import torch

from concept_conductor.backbones.meta import MetaModel
from concept_conductor.memory.estimate import DryRun, MemoryOptions, ed_lora
from concept_conductor.memory.savings import GIB
from concept_conductor.pipeline.inputs import resolve_settings
from concept_conductor.settings import Alignment, Injection, Refinement

RUNS = (("sd15", 512), ("sd15", 768), ("sd21", 768), ("sdxl", 1024))
CONCEPTS = (1, 2, 4)
COLUMNS = {
    "as it comes": MemoryOptions(),
    "+ checkpointing, tiling": MemoryOptions(None, gradient_checkpointing=True, vae_tiling=True),
    "+ offload": MemoryOptions(None, gradient_checkpointing=True, vae_tiling=True, offload=True),
    "+ one path at a time": MemoryOptions(1, gradient_checkpointing=True, vae_tiling=True, offload=True),
}


def main() -> None:
    print(f"| model | pixels | concepts | {' | '.join(COLUMNS)} |")
    print(f"| --- | --- | --- |{' --- |' * len(COLUMNS)}")
    for family, side in RUNS:
        backbone = MetaModel.published(family).backbone(torch.float16)
        settings = resolve_settings(
            backbone.defaults, alignment=Alignment(), injection=Injection(), refinement=Refinement(), steps=200,
            guidance_scale=7.5, paths_per_forward=None,
        )  # fmt: skip
        for concepts in CONCEPTS:
            rehearsal = DryRun(backbone, settings, (side, side), [ed_lora(backbone)] * concepts)
            peaks = (rehearsal.estimate(thrift).peak / GIB for thrift in COLUMNS.values())
            figures = " | ".join(f"{peak:.1f}" for peak in peaks)
            print(f"| {backbone.name} | {side} | {concepts} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
