"""Writing a concept in every format and reading it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.formats.convert import ConceptFormat
from tests.concepts.conftest import concept
from tests.concepts.files import same
from tests.concepts.models import (
    FAMILIES,
    Models,
    assert_same_outputs,
    check,
    clean,
    save_diffusers,
    trained,
)

WITH_TOKENS = (ConceptFormat.ours, ConceptFormat.mixofshow)


@pytest.mark.parametrize("encoders", [1, 2])
@pytest.mark.parametrize("format", WITH_TOKENS)
def test_both_families_round_trip(tmp_path: Path, encoders: int, format: ConceptFormat) -> None:
    toy = concept(encoders)
    again = Concept.load(format.save(toy, tmp_path / f"toy{format.suffix}"))
    assert same(toy, again)
    assert again.placeholders == ("<toy_2>", "<toy_1>")


@given(
    rank=st.integers(1, 5),
    layers=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    names=st.lists(
        st.text("abc <>._-é1", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=4, unique=True
    ),
)
@settings(max_examples=20, deadline=None)
def test_any_concept_round_trips(
    tmp_path_factory: pytest.TempPathFactory, rank: int, layers: int, dtype: torch.dtype, names: list[str]
) -> None:
    toy = Concept(
        name="any",
        tokens=({name: torch.randn(layers, 3).to(dtype) for name in names},),
        unet={
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": LowRank(
                torch.randn(rank, 3).to(dtype), torch.randn(2, rank).to(dtype)
            )
        },
    )
    folder = tmp_path_factory.mktemp("any")
    for format in WITH_TOKENS:
        assert same(toy, Concept.load(format.save(toy, folder / f"any{format.suffix}")))


@pytest.mark.parametrize("format", [ConceptFormat.ours, ConceptFormat.kohya, ConceptFormat.diffusers])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_survives_conversion(tmp_path: Path, family: str, format: ConceptFormat) -> None:
    result = trained(family, "everything", lora_alpha=3)
    for name, adapter in result.adapters.items():
        adapter.save_pretrained(tmp_path / "peft" / name)
    path = format.save(Concept.load(tmp_path / "peft"), tmp_path / "converted.safetensors")
    check(path, result)


def test_what_is_converted_can_be_loaded_by_diffusers(tmp_path: Path) -> None:
    """Into a U-Net by diffusers' own loader, in both layouts."""
    result = trained("sd15")
    path = save_diffusers(tmp_path, result)
    concept = Concept.load(path)
    for format in (ConceptFormat.kohya, ConceptFormat.diffusers):
        format.save(concept, tmp_path / "converted.safetensors")
        state, alphas, _ = StableDiffusionPipeline.lora_state_dict(
            tmp_path / "converted.safetensors", return_lora_metadata=True
        )
        unet = clean(result).networks["unet"]
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet)
        with torch.no_grad():
            assert_same_outputs(Models("sd15", {"unet": unet}).outputs(), result.outputs[:1])


@pytest.mark.parametrize("format", list(ConceptFormat))
def test_the_same_concept_has_the_same_bytes(tmp_path: Path, format: ConceptFormat) -> None:
    """Whatever order its layers and what it says of itself came in; so that a repeated training has the same hash."""
    toy = concept() if format in WITH_TOKENS else replace(concept(), tokens=({},))
    other = replace(
        toy,
        unet=dict(reversed(toy.unet.items())),
        metadata={"k": "v", **dict(reversed(toy.metadata.items()))},
    )
    toy = replace(toy, metadata={**toy.metadata, "k": "v"})
    written = [format.save(each, tmp_path / name) for name, each in (("a", toy), ("b", other), ("c", toy))]
    assert len({path.read_bytes() for path in written}) == 1
    assert same(Concept.load(written[0]), toy)
