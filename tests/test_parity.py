"""The published implementation's latents, reproduced to rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from concept_conductor import Alignment, Concept, ConceptConductorPipeline, ConceptPrompt, Inversion, Layout, Placement
from tests.compare import relative
from tests.conftest import tiny_image

PIPES = {"sd15": "tiny_pipe", "sdxl": "tiny_xl"}
PARITY = Path(__file__).parent / "parity"
TOLERANCE = 5e-5


@pytest.fixture(scope="module")
def inversions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all cases: the 999-step inversion runs once for each reference."""
    return tmp_path_factory.mktemp("inversions")


@pytest.mark.parametrize("name", ["sd15_two_concepts", "sd15_placement", "sdxl_two_concepts"])
def test_latents_equal_the_published_ones(name: str, inversions: Path, request: pytest.FixtureRequest) -> None:
    """With all paths in one forward, one by one, and two at a time, from one inversion of the reference."""
    case = json.loads((PARITY / f"public_{name}.json").read_text())
    expected = load_file(PARITY / f"pub_{name}.safetensors")
    compared = [key for key in expected if key.startswith("latents_after_step_")]
    assert len(compared) == 5
    pipe: ConceptConductorPipeline = request.getfixturevalue(PIPES[case["kind"]])
    call = arguments(case, expected["init_latents"], inversions)
    latents: dict[int, torch.Tensor] = {}
    for paths_per_forward in (None, 1, 2):
        latents.clear()
        out = pipe(
            **call,
            paths_per_forward=paths_per_forward,
            output_type="np",
            callback_on_step_end=lambda _pipe, step, _t, tensors: latents.update({step: tensors["latents"]}),
        )
        for key in compared:
            difference = relative(latents[int(key.rpartition("_")[2])], expected[key])
            assert difference <= TOLERANCE, (paths_per_forward, key)
        if not case.get("placement"):  # the published image is not composited
            torch.testing.assert_close(torch.from_numpy(out.images), expected["image"], rtol=0, atol=1e-4)


def arguments(case: dict[str, Any], latents: torch.Tensor, inversions: Path) -> dict[str, Any]:
    """What the published run was called with."""
    folder = PARITY / case["kind"]
    return {
        "prompt": case["prompt"],
        "concepts": [
            ConceptPrompt(Concept.load(folder / f"{concept}.pth"), prompt, weight=case["lora_alpha"])
            for concept, prompt in zip(case["concepts"], case["custom_prompts"], strict=True)
        ],
        "layout": Layout(
            tiny_image("ref", folder), case["layout_prompt"], masks=[tiny_image("mask1"), tiny_image("mask2")]
        ),
        "negative_prompt": case["negative_prompt"],
        "height": case["height"],
        "width": case["width"],
        "num_inference_steps": case["steps"],
        "guidance_scale": case["guidance_scale"],
        "latents": latents,
        "alignment": Alignment(
            step_size=case["align_step_size"],
            concept_weight=case["align_weight"],
            end=case["align_last_step"] / case["steps"],
        ),
        "refinement": None,
        "inversion": Inversion(cache=inversions),
        "placement": Placement(tiny_image("init"), tiny_image("init_mask"), background="noise")
        if case.get("placement")
        else None,
    }
