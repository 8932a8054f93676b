"""A checkpoint's own safety checker, out of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from concept_conductor import ConceptConductorPipeline, ConductorError
from concept_conductor.io.pretrained import pillow_processor
from tests.pipeline.conftest import edit

VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 16,
}  # fmt: skip


@pytest.fixture
def checked(model: Path) -> Path:
    """The tiny SD1.5 with a tiny safety checker, written down as SD1.5's own folder has it."""
    torch.manual_seed(0)
    config = CLIPConfig(vision_config=VISION, text_config={"hidden_size": 16}, projection_dim=8)
    StableDiffusionSafetyChecker(config).save_pretrained(model / "safety_checker")
    edit(
        model / "safety_checker" / "config.json",
        lambda data: data["vision_config"].update(hidden_size=24, top_k=50, bos_token_id=None),
        vision_config_dict={"hidden_size": 16},  # which counts more
        text_config_dict={"hidden_size": 16},
    )
    file = model / "safety_checker" / "model.safetensors"
    state = {name.replace("vision_model.", "vision_model.vision_model."): t for name, t in load_file(file).items()}
    save_file({**state, "vision_model.vision_model.embeddings.position_ids": torch.arange(5)[None]}, file)
    pillow_processor("CLIPImageProcessor")(size=32, crop_size=32).save_pretrained(model / "feature_extractor")
    edit(model / "feature_extractor" / "preprocessor_config.json", feature_extractor_type="CLIPFeatureExtractor")
    edit(
        model / "model_index.json",
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        requires_safety_checker=True,
    )
    return model


def test_it_is_loaded_and_looks(checked: Path, tmp_path: Path) -> None:
    pipe = ConceptConductorPipeline.from_pretrained(checked)
    state = load_file(checked / "safety_checker" / "model.safetensors")
    assert torch.equal(pipe.safety_checker.concept_embeds, state["concept_embeds"])
    _, flagged = pipe.safety_checked([Image.new("RGB", (64, 64))])
    assert flagged is not None and len(flagged) == 1
    pipe.save_pretrained(tmp_path / "saved")
    again = ConceptConductorPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.safety_checker.visual_projection.weight, pipe.safety_checker.visual_projection.weight)
    without = ConceptConductorPipeline.from_pretrained(checked, safety_checker=None)
    assert without.safety_checker is None


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        ("safety_checker/config.json", {"vision_config_dict": {"num_hidden_layers": 10**9}}, "'num_hidden_layers'"),
        ("safety_checker/config.json", {"vision_config_dict": {"_attn_implementation": "a/b"}}, "attention kernel"),
        ("safety_checker/config.json", {"vision_config": []}, "'vision_config'"),
        ("safety_checker/config.json", {"vision_config_dict": {"num_attention_heads": 5}}, "no safety checker"),
        ("safety_checker/config.json", {"projection_dim": 9}, r"in the shape \("),
        ("feature_extractor/preprocessor_config.json", {"size": "x"}, "'size"),
        ("feature_extractor/preprocessor_config.json", {"image_std": [1, 2]}, "'image_std'"),
    ],
)
def test_odd_files_are_one_sentence(checked: Path, file: str, fields: dict[str, Any], sentence: str) -> None:
    edit(checked / file, **fields)
    with pytest.raises(ConductorError, match=sentence) as caught:
        ConceptConductorPipeline.from_pretrained(checked)
    assert "\n" not in str(caught.value)


def test_missing_files(checked: Path) -> None:
    (checked / "feature_extractor" / "preprocessor_config.json").unlink()
    with pytest.raises(ConductorError, match=r"lacks feature_extractor/preprocessor_config\.json"):
        ConceptConductorPipeline.from_pretrained(checked)
    index = json.loads((checked / "model_index.json").read_text())
    assert index["requires_safety_checker"] is True
    edit(checked / "model_index.json", safety_checker=[None, None])
    assert ConceptConductorPipeline.from_pretrained(checked).safety_checker is None
