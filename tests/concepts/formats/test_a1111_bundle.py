"""Embeddings bundled with a LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import save_file

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.inspection import inspect
from concept_conductor.errors import ConceptFileError
from tests.concepts.models import (
    FAMILIES,
    check,
    trained,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_bundled_with_a_lora_are_its_tokens(tmp_path: Path, family: str) -> None:
    result = trained(family)
    state = convert_state_dict_to_kohya(result.packed)
    if family == "sd15":
        tokens = {"bundle_emb.mug.string_to_param.*": torch.randn(2, 768)}
    else:
        tokens = {"bundle_emb.mug.clip_l": torch.randn(2, 768), "bundle_emb.mug.clip_g": torch.randn(2, 1280)}
    save_file({**state, **tokens}, tmp_path / "bundle.safetensors")
    check(tmp_path / "bundle.safetensors", result)
    concept = Concept.load(tmp_path / "bundle.safetensors")
    assert concept.name == "bundle"
    assert concept.positions == {"mug": 2}
    assert inspect(tmp_path / "bundle.safetensors").kind == "kohya-ss LoRA + textual inversion"
    save_file({**state, "bundle_emb.mug": torch.ones(2)}, tmp_path / "bundle.safetensors")
    with pytest.raises(ConceptFileError, match="names no embedding"):
        Concept.load(tmp_path / "bundle.safetensors")
