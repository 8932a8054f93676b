"""One image of concepts of different kinds, through the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import save_file

from concept_conductor import Concept, ConceptConductorPipeline, ConceptPrompt, FamilyError, Layout
from tests.compare import ROUNDING, relative
from tests.concepts.models import packed_lora
from tests.conftest import TINY as TINY_SD15
from tests.conftest import VARIANTS, tiny_image


@pytest.fixture(scope="module")
def mixed(tiny_pipe: ConceptConductorPipeline, tmp_path_factory: pytest.TempPathFactory) -> list[ConceptPrompt]:
    """An ED-LoRA dog, a cat of a full-network kohya LoRA, and a mug of a textual inversion with three vectors."""
    folder = tmp_path_factory.mktemp("mixed")
    torch.manual_seed(0)
    packed = packed_lora(tiny_pipe, ("unet", "text_encoder"))
    header = {"modelspec.trigger_phrase": "sks cat"}
    save_file(convert_state_dict_to_kohya(packed), folder / "cat.safetensors", metadata=header)
    mug = {"string_to_param": {"*": torch.randn(3, 32)}, "name": "<mug>", "step": 1}
    torch.save(mug, folder / "mug.pt")
    return [
        ConceptPrompt(Concept.load(TINY_SD15 / "chow_dog.pth"), VARIANTS["chow_dog"]),
        ConceptPrompt(Concept.load(folder / "cat.safetensors"), replaces=["cat"]),
        ConceptPrompt(Concept.load(folder / "mug.pt"), "A <mug> on the beach.", weight=1.0),
    ]


@pytest.fixture
def call(tiny_call: dict[str, Any], mixed: list[ConceptPrompt]) -> dict[str, Any]:
    masks = [tiny_image("mask1"), tiny_image("mask2"), tiny_image("mask3")]
    layout = Layout(tiny_image("ref"), "A dog and a cat in the street.", masks)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    return {**tiny_call, "concepts": mixed, "layout": layout, "num_inference_steps": 5, "latents": latents}


def test_every_kind_has_its_part_in_the_image(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], mixed: list[ConceptPrompt]
) -> None:
    assert mixed[1].variant("A dog and a cat on the beach.") == "A dog and a sks cat on the beach."
    together = tiny_pipe(**call).images
    one_by_one = tiny_pipe(**call, paths_per_forward=1).images
    assert torch.isfinite(together).all()
    assert (together - one_by_one).norm() <= 1e-4 * together.norm()
    blank = Concept("blank")
    for place in range(3):
        without = list(mixed)
        without[place] = ConceptPrompt(blank, "on the beach")
        assert (tiny_pipe(**{**call, "concepts": without}).images - together).norm() > 1e-3 * together.norm()


def test_saved_as_ours_they_make_the_same_image(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], mixed: list[ConceptPrompt], tmp_path: Path
) -> None:
    again = [
        ConceptPrompt(
            Concept.load(entry.concept.save(tmp_path / f"{place}.safetensors")),
            entry.prompt,
            replaces=entry.replaces,
            weight=entry.weight,
        )
        for place, entry in enumerate(mixed)
    ]
    assert relative(tiny_pipe(**{**call, "concepts": again}).images, tiny_pipe(**call).images) < ROUNDING


def test_a_lora_of_another_family_is_refused(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path
) -> None:
    layer = "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    sentences = {
        2048: r"2 text encoders \(SDXL\), but this model has one",
        768: "SD1.5.*width 768, but this model's reads 32",
    }
    for width, sentence in sentences.items():
        state = {f"{layer}.lora_A.weight": torch.ones(2, width), f"{layer}.lora_B.weight": torch.ones(32, 2)}
        save_file(state, tmp_path / "cat.safetensors")
        cat = ConceptPrompt(Concept.load(tmp_path / "cat.safetensors"), "A cat.")
        with pytest.raises(FamilyError, match=sentence):
            tiny_pipe(**{**call, "concepts": [cat] * 3})
