"""Computing activations again instead of keeping them changes no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from concept_conductor import Alignment, Concept, ConceptConductorPipeline, ConceptPrompt, Inversion
from tests.compare import ROUNDING, relative
from tests.conftest import TINY, TINY_XL

MODELS = {"sd15": ("tiny_pipe", TINY), "sdxl": ("tiny_xl", TINY_XL)}


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_gradient_checkpointing_gives_the_same_image(
    family: str,
    tiny_concepts: dict[str, ConceptPrompt],
    tiny_call: dict[str, Any],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    pipe: ConceptConductorPipeline = request.getfixturevalue(MODELS[family][0])
    entries = [
        ConceptPrompt(Concept.load(MODELS[family][1] / f"{name}.pth"), tiny_concepts[name].prompt)
        for name in ("chow_dog", "siberian_cat")
    ]
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {**tiny_call, "concepts": entries, "num_inference_steps": 1, "refinement": None, "latents": latents}
    call["inversion"] = Inversion(steps=1, cache=tmp_path)
    before = {name: vars(module).keys() for name, module in pipe.unet.named_modules()}
    plain = pipe(**call, alignment=Alignment(end=1.0)).images
    off = pipe(**call, alignment=None).images
    assert relative(plain, off) > 1e-4
    for paths_per_forward in (None, 1):
        saving = Alignment(end=1.0, gradient_checkpointing=True)
        images = pipe(**call, alignment=saving, paths_per_forward=paths_per_forward).images
        assert relative(images, plain) < ROUNDING
    assert {name: vars(module).keys() for name, module in pipe.unet.named_modules()} == before
    pipe.unet.enable_gradient_checkpointing()  # diffusers' own switch means the same
    try:
        images = pipe(**call, alignment=Alignment(end=1.0)).images
    finally:
        pipe.unet.disable_gradient_checkpointing()
    assert relative(images, plain) < ROUNDING
