"""Four kinds of concepts in one image of SDXL, the LoRAs as their own tools write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import save_file
from torch import Tensor

from concept_conductor import Concept, ConceptConductorPipeline, ConceptPrompt, Inversion, Layout
from concept_conductor.concepts.formats.convert import ConceptFormat
from tests.compare import ROUNDING, relative
from tests.concepts.models import packed_lora
from tests.conftest import TINY_XL, VARIANTS, tiny_image
from tests.stability import unet_layer


@pytest.fixture(scope="module")
def files(tiny_xl: ConceptConductorPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """kohya's file has the whole U-Net in Stability's names, diffusers' the attention alone."""
    folder = tmp_path_factory.mktemp("mixed-xl")
    torch.manual_seed(0)
    networks = ("unet", "text_encoder", "text_encoder_2")
    cat = packed_lora(tiny_xl, networks)
    kohya = convert_state_dict_to_kohya({key: value for key, value in cat.items() if not key.startswith("unet.")})
    for key, value in cat.items():
        model, _, layer = key.removesuffix(".weight").partition(".")
        if model == "unet":
            layer, _, half = layer.rpartition(".")
            name = "lora_unet_" + unet_layer(layer).replace(".", "_")
            kohya[f"{name}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value
            kohya[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(kohya, folder / "cat.safetensors", metadata={"ss_tag_frequency": '{"10_cat": {"sks cat": 20}}'})
    robot = packed_lora(tiny_xl, networks, r"attn")
    layers = {
        f"{name}_lora_layers": {
            key.removeprefix(f"{name}."): value for key, value in robot.items() if key.startswith(f"{name}.")
        }
        for name in networks
    }
    StableDiffusionXLPipeline.save_lora_weights(folder / "robot", **layers)
    mug = {"clip_l": torch.randn(2, 16) * 0.1, "clip_g": torch.randn(2, 16) * 0.1}
    save_file(mug, folder / "mug.safetensors")
    return folder


@pytest.fixture(scope="module")
def concepts(files: Path) -> list[ConceptPrompt]:
    return [
        ConceptPrompt(Concept.load(TINY_XL / "chow_dog.pth"), VARIANTS["chow_dog"]),
        ConceptPrompt(Concept.load(files / "cat.safetensors"), replaces=["cat"]),
        ConceptPrompt(Concept.load(files / "robot"), "A robot on the beach.", weight=0.9),
        ConceptPrompt(Concept.load(files / "mug.safetensors"), replaces=["cat"], weight=1.0),
    ]


@pytest.fixture(scope="module")
def call(concepts: list[ConceptPrompt], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    masks = [np.kron(np.eye(4, dtype=bool)[k].reshape(2, 2), np.ones((64, 64), dtype=bool)) for k in range(4)]
    return {
        "prompt": "A dog and a cat on the beach.",
        "concepts": concepts,
        "layout": Layout(tiny_image("ref"), "A dog and a cat in the street.", masks),
        "num_inference_steps": 1,
        "inversion": Inversion(steps=1, cache=tmp_path_factory.mktemp("inversions")),
        "output_type": "latent",
        "latents": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)),
    }


@pytest.fixture(scope="module")
def together(tiny_xl: ConceptConductorPipeline, call: dict[str, Any]) -> Tensor:
    """The image's latents."""
    images = tiny_xl(**call).images
    assert isinstance(images, Tensor)
    return images


def test_every_kind_has_its_part_in_the_image(
    tiny_xl: ConceptConductorPipeline, call: dict[str, Any], concepts: list[ConceptPrompt], together: Tensor
) -> None:
    kinds = [(bool(each.concept.unet), bool(each.concept.placeholders)) for each in concepts]
    assert kinds == [(True, True), (True, False), (True, False), (False, True)]
    assert {each.concept.family for each in concepts} == {"sdxl"}
    assert concepts[1].variant(call["prompt"]) == "A dog and a sks cat on the beach."
    assert torch.isfinite(together).all()
    one_by_one = tiny_xl(**call, paths_per_forward=1).images
    assert (together - one_by_one).norm() <= 1e-4 * together.norm()
    blank = ConceptPrompt(Concept("blank"), "on the beach")
    for place in range(4):
        others = [blank if index == place else each for index, each in enumerate(concepts)]
        assert (tiny_xl(**{**call, "concepts": others}).images - together).norm() > 1e-4 * together.norm()


def test_kohyas_file_in_diffusers_names_makes_the_same_image(
    tiny_xl: ConceptConductorPipeline,
    call: dict[str, Any],
    concepts: list[ConceptPrompt],
    together: Tensor,
    tmp_path: Path,
) -> None:
    """Converted by this program, read by it again, in place of the file in Stability's names."""
    again = list(concepts)
    for place, form in ((1, ConceptFormat.diffusers), (2, ConceptFormat.kohya)):
        entry, path = concepts[place], tmp_path / f"{place}.safetensors"
        again[place] = ConceptPrompt(
            Concept.load(form.save(entry.concept, path)),
            entry.variant(call["prompt"]),
            weight=entry.weight,
        )
    images = tiny_xl(**{**call, "concepts": again}).images
    assert relative(images, together) < ROUNDING  # a layer that is lost changes 1e-4
