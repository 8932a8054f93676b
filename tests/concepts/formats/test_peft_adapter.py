"""PEFT's adapter folders give what PEFT's own layers give."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import ConceptFileError
from tests.concepts.models import (
    FAMILIES,
    assert_same_outputs,
    check,
    clean,
    tiny_unet,
    trained,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_folders(tmp_path: Path, family: str) -> None:
    """A folder for each network, with alpha, patterns and rank-stabilised scaling."""
    settings = {"rank_pattern": {"to_k": 4}, "alpha_pattern": {"to_v": 9, "mlp.fc1": 2}, "use_rslora": True}
    result = trained(family, "everything", lora_alpha=5, **settings)
    for name, adapter in result.adapters.items():
        adapter.save_pretrained(tmp_path / "dog" / name)
    assert Concept.load(tmp_path / "dog").name == "dog"
    check(tmp_path / "dog", result)


def test_a_peft_folder_of_one_network(tmp_path: Path) -> None:
    result = trained("sd15", lora_alpha=3)
    result.adapters["unet"].save_pretrained(tmp_path / "unet_only")
    result.adapters["text_encoder"].save_pretrained(tmp_path / "text_only")
    models = clean(result)
    unet = Concept.load(tmp_path / "unet_only")
    text = Concept.load(tmp_path / "text_only" / "adapter_model.safetensors")
    assert_same_outputs(models.with_concept(unet)[:1], result.outputs[:1])
    assert_same_outputs(models.with_concept(text)[1:], result.outputs[1:])
    both = Concept.load(tmp_path / "unet_only", tmp_path / "text_only")
    assert_same_outputs(models.with_concept(both), result.outputs)
    assert both.name == "unet_only"


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"alpha_pattern": {"(a+)+": 3}}, "expression"),
        (None, "missing"),
        ("{", "JSON"),
        ("[]", "table"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, settings: Any, word: str) -> None:
    trained("sd15").adapters["unet"].save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    if isinstance(settings, dict):
        settings = json.dumps({**json.loads(file.read_text()), **settings})
    if settings is None:
        file.unlink()
    else:
        file.write_text(settings)
    with pytest.raises(ConceptFileError, match=word):
        Concept.load(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize(("kind", "settings"), [("DoRA", {"use_dora": True}), ("bias", {"lora_bias": True})])
def test_peft_adapters_that_are_not_plain_low_rank(tmp_path: Path, kind: str, settings: dict[str, bool]) -> None:
    config = LoraConfig(target_modules=["to_out.0"], init_lora_weights=False, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT does not know its own biases
        get_peft_model(tiny_unet("sd15"), config).save_pretrained(tmp_path)
    with pytest.raises(ConceptFileError, match=kind):
        Concept.load(tmp_path)
