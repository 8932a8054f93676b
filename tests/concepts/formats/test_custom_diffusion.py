"""Custom Diffusion's files give what diffusers' own attention processors give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from torch import Tensor

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import FullWeight
from concept_conductor.concepts.formats.convert import ConceptFormat
from concept_conductor.errors import ConceptFileError
from tests.concepts.models import Models, assert_same_outputs


def customised(unet: UNet2DConditionModel, train_q_out: bool = False) -> None:
    """Put trained processors into the cross-attention layers, as diffusers' training script does."""
    processors = {}
    for name, processor in unet.attn_processors.items():
        attention = unet.get_submodule(name.removesuffix(".processor"))
        cross = attention.is_cross_attention
        processors[name] = CustomDiffusionAttnProcessor(
            train_kv=cross,
            train_q_out=cross and train_q_out,
            hidden_size=attention.to_q.in_features,
            cross_attention_dim=unet.config.cross_attention_dim if cross else None,
        )
        del processor
    unet.set_attn_processor(processors)


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, Models, list[Tensor]]:
    """What training leaves behind, the untouched models, and what the trained ones give."""
    torch.manual_seed(0)
    models = Models.tiny("sd15")
    unet = models.networks["unet"]
    before = dict(unet.attn_processors)
    customised(unet)
    outputs = models.outputs()
    unet.save_attn_procs(tmp_path, weight_name="pytorch_custom_diffusion_weights.bin", safe_serialization=False)
    torch.save({"<new1>": torch.randn(768)}, tmp_path / "<new1>.bin")
    unet.set_attn_processor(before)
    return tmp_path, models, outputs


def test_weights_and_token_make_one_concept(folder: tuple[Path, Models, list[Tensor]]) -> None:
    path, models, outputs = folder
    concept = Concept.load(path)
    assert concept.placeholders == ("<new1>",)
    assert concept.family == "sd15"
    assert concept.unet and all(isinstance(update, FullWeight) for update in concept.unet.values())
    assert_same_outputs(models.with_concept(concept), outputs)
    alone = Concept.load(path / "pytorch_custom_diffusion_weights.bin")
    assert alone.placeholders == () and alone.unet.keys() == concept.unet.keys()


def test_whole_weights_round_trip_in_ours_only(folder: tuple[Path, Models, list[Tensor]]) -> None:
    path, models, outputs = folder
    concept = Concept.load(path / "pytorch_custom_diffusion_weights.bin")
    ours = Concept.load(ConceptFormat.ours.save(Concept.load(path), path / "ours.safetensors"))
    assert_same_outputs(models.with_concept(ours), outputs)
    for format in (ConceptFormat.kohya, ConceptFormat.diffusers):
        with pytest.raises(ConceptFileError, match="whole weight"):
            format.save(concept, path / "other")
    with pytest.raises(ConceptFileError, match="placeholders of one position"):
        ConceptFormat.mixofshow.save(concept, path / "other")
    with pytest.raises(ConceptFileError, match="linear layers only"):
        ConceptFormat.mixofshow.save(Concept.load(path / "ours.safetensors"), path / "other")
    assert not (path / "other").exists()


def test_trained_biases_are_refused(tmp_path: Path) -> None:
    unet = Models.tiny("sd15").networks["unet"]
    customised(unet, train_q_out=True)
    unet.save_attn_procs(tmp_path, weight_name="pytorch_custom_diffusion_weights.bin", safe_serialization=False)
    with pytest.raises(ConceptFileError, match=r"to_out_custom_diffusion.0.bias', which is a trained bias"):
        Concept.load(tmp_path)
