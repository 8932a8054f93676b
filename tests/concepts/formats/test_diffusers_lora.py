"""diffusers' LoRA files as their real writers write them give what PEFT's own layers give."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors.torch import load_file, save_file

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.inspection import inspect
from tests.concepts.files import refused
from tests.concepts.models import (
    FAMILIES,
    assert_same_outputs,
    check,
    clean,
    save_diffusers,
    trained,
)


@pytest.mark.parametrize("kinds", ["attention", "everything"])
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_files(tmp_path: Path, family: str, kinds: str) -> None:
    result = trained(family, kinds)
    check(save_diffusers(tmp_path, result), result)


def test_a_diffusers_file_with_settings_in_its_header(tmp_path: Path) -> None:
    """alpha, a pattern for some layers and rank-stabilised scaling, per network."""
    settings = {"lora_alpha": 7, "alpha_pattern": {"attn2.to_k": 5, "q_proj": 3}, "rank_pattern": {"attn1.to_v": 3}}
    result = trained("sd15", use_rslora=True, **settings)
    metadata = {
        f"{name}_lora_adapter_metadata": adapter.peft_config["default"].to_dict()
        for name, adapter in result.adapters.items()
    }
    path = save_diffusers(tmp_path, result, **metadata)
    assert {update.rank for update in Concept.load(path).unet.values()} == {2, 3}
    check(path, result)


def test_older_diffusers_spellings(tmp_path: Path) -> None:
    """``lora_linear_layer``, ``.lora.down``, and attention processors without the network's name."""
    result = trained("sd15")
    older = {
        f"{name}.{key}": value
        for name, state in result.states.items()
        for key, value in convert_state_dict_to_diffusers(state).items()
    }
    assert any(".lora_linear_layer.down." in key for key in older) and any(".to_q.lora.down." in key for key in older)
    save_file(older, tmp_path / "older.safetensors")
    oldest = {
        key.replace(".to_out.0.lora.", ".processor.to_out_lora.").replace(".lora.", "_lora."): value
        for key, value in convert_state_dict_to_diffusers(result.states["unet"]).items()
    }
    oldest = {key.replace(".to_", ".processor.to_") if "processor" not in key else key: v for key, v in oldest.items()}
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight" in oldest
    torch.save(oldest, tmp_path / "pytorch_lora_weights.bin")
    models = clean(result)
    concept = Concept.load(tmp_path / "pytorch_lora_weights.bin")
    assert concept.name == tmp_path.name
    assert_same_outputs(models.with_concept(concept)[:1], result.outputs[:1])
    check(tmp_path / "older.safetensors", result)


def test_old_text_encoder_spelling(tmp_path: Path) -> None:
    """``text_encoder.text_model.LAYER.to_q_lora``, whose names of the projections differ."""
    result = trained("sd15")
    names = {
        ".q_proj.": ".to_q_lora.",
        ".k_proj.": ".to_k_lora.",
        ".v_proj.": ".to_v_lora.",
        ".out_proj.": ".to_out_lora.",
    }
    old = {}
    for key, value in result.packed.items():
        if key.startswith("text_encoder."):
            for new, older in names.items():
                key = key.replace(new, older)
            key = (
                key.replace("encoder.layers", "text_model.encoder.layers", 1)
                .replace("lora_A", "down")
                .replace("lora_B", "up")
            )
        old[key] = value
    save_file(old, tmp_path / "old.safetensors")
    assert "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight" in old
    check(tmp_path / "old.safetensors", result)


def test_every_tensor_of_a_real_file_is_counted(tmp_path: Path) -> None:
    path = save_diffusers(tmp_path, trained("sdxl", "everything"))
    stored = load_file(path)
    report = inspect(path)
    assert report.problem is None
    assert (report.kind, report.family) == ("diffusers LoRA", "sdxl")
    assert report.tensors == len(stored)
    assert report.parameters == sum(tensor.numel() for tensor in stored.values())
    assert {group.goes_to for group in report.weights} >= {
        "U-Net ff.net.0.proj", "U-Net conv1", "U-Net time_embedding.linear_1", "text encoder 2 mlp.fc1",
    }  # fmt: skip


@pytest.mark.parametrize(
    "start", ["unet.base_model.model.", "unet._orig_mod.", "module.unet.", "_orig_mod.unet.module.", ""]
)
@pytest.mark.parametrize("half", [".lora_{}.weight", ".lora_{}.default.weight"])
def test_what_wrapped_the_network_in_training_is_stripped(tmp_path: Path, start: str, half: str) -> None:
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {"A": torch.randn(2, 8), "B": torch.randn(8, 2)}
    save_file({start + layer + half.format(name): value for name, value in tensors.items()}, tmp_path / "a.safetensors")
    concept = Concept.load(tmp_path / "a.safetensors")
    assert set(concept.unet) == {layer}
    again = Concept.load(concept.save(tmp_path / "ours.safetensors"))
    torch.testing.assert_close(again.unet[layer].down, tensors["A"], rtol=0, atol=0)


def test_an_alpha_beside_the_weights(tmp_path: Path) -> None:
    """Over the rank, as in diffusers; not beside settings in the header."""
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{layer}.lora.down.weight": torch.ones(2, 8), f"{layer}.lora.up.weight": torch.ones(8, 2)}
    state[f"{layer}.alpha"] = torch.tensor(5.0)
    save_file(state, tmp_path / "a.safetensors")
    (update,) = Concept.load(tmp_path / "a.safetensors").unet.values()
    torch.testing.assert_close(update.up, torch.full((8, 2), 2.5))
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 4}'})
    refused(tmp_path / "a.safetensors", f"'{layer}.alpha' beside settings")
