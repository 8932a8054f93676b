"""Configurations of a model's parts: what is honoured, what is dropped, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_conductor.backbones.component_configs import (
    ComponentConfig,
    TextEncoderConfig,
    UNetConfig,
    VaeConfig,
    check_config,
)
from concept_conductor.backbones.meta import MetaModel
from concept_conductor.errors import ConductorError
from tests.conftest import TINY, TINY_XL

KINDS: dict[str, type[ComponentConfig]] = {
    "unet": UNetConfig,
    "vae": VaeConfig,
    "text_encoder": TextEncoderConfig,
    "text_encoder_2": TextEncoderConfig,
}


def own(part: str) -> dict[str, Any]:
    """The tiny SDXL's configuration of a part."""
    found: dict[str, Any] = json.loads((TINY_XL / part / "config.json").read_text())
    return found


@pytest.mark.parametrize("part", KINDS)
def test_what_the_tiny_models_say_is_passed_on(part: str) -> None:
    config = own(part)
    passed = check_config(KINDS[part], config, part)
    assert passed.items() <= config.items()
    assert {
        "_class_name",
        "_diffusers_version",
        "architectures",
        "torch_dtype",
        "initializer_range",
    } & passed.keys() == set()
    assert ("block_out_channels" in passed) == (part in ("unet", "vae"))


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("unet", {"time_cond_proj_dim": 256}, r"'time_cond_proj_dim': a distilled U-Net \(LCM\).*but it is 256"),
        ("unet", {"class_embed_type": "projection"}, "'class_embed_type': it wants an input .*; expected null"),
        ("unet", {"num_class_embeds": 1000}, "'num_class_embeds'"),
        ("unet", {"encoder_hid_dim_type": "text_image_proj"}, "'encoder_hid_dim_type'"),
        ("unet", {"attention_type": "gated"}, "'attention_type': .*; expected 'default', but it is 'gated'"),
        ("unet", {"addition_embed_type": "text_image"}, "'addition_embed_type': expected 'text_time'"),
        ("unet", {"addition_time_embed_dim": None}, "'addition_embed_type' needs 'addition_time_embed_dim'"),
        ("unet", {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "'mid_block_type'"),
        ("unet", {"down_block_types": ["KDownBlock2D"] * 3}, r"'down_block_types\[0\]'"),
        ("unet", {"only_cross_attention": [False, True, False]}, "'only_cross_attention'"),
        ("unet", {"center_input_sample": True}, "'center_input_sample'"),
        ("unet", {"resnet_time_scale_shift": "scale_shift"}, "'resnet_time_scale_shift'"),
        ("unet", {"time_embedding_type": "fourier"}, "'time_embedding_type'"),
        ("unet", {"cross_attention_dim": [32, 32, 32]}, "'cross_attention_dim': expected a valid integer"),
        ("unet", {"layers_per_block": 10**9}, "'layers_per_block': expected a number less than or equal to 6"),
        ("unet", {"transformer_layers_per_block": 10**9}, "'transformer_layers_per_block': expected a whole number"),
        ("unet", {"transformer_layers_per_block": [1, 2]}, "has 2 entries for 3 blocks"),
        ("unet", {"attention_head_dim": [4, True, 10]}, "'attention_head_dim': expected a whole number from 1 to 1024"),
        ("unet", {"block_out_channels": [16, 20]}, "has 3 entries for 2 blocks"),
        ("unet", {"block_out_channels": []}, "expected at least 1 in this list"),
        ("unet", {"norm_num_groups": 3}, "16, which is no multiple of 'norm_num_groups' 3"),
        ("unet", {"in_channels": 9}, r"takes 9 channels and gives 4 \(an inpainting model\?\)"),
        ("unet", {"sample_size": -1}, "'sample_size'"),
        ("unet", {"norm_eps": "1e-5"}, "'norm_eps': expected a valid number, but it is '1e-5'"),
        ("unet", {"upcast_attention": 1}, "'upcast_attention': expected a valid boolean"),
        ("unet", {"_class_name": "UNet3DConditionModel"}, "of the class 'UNet3DConditionModel'"),
        ("unet", {"_class_name": ["x"]}, "of the class"),
        ("unet", {"quantization_config": {"quant_method": "x"}}, "'quantization_config' says that"),
        ("unet", {"a_new_kind_of_attention": False}, "'a_new_kind_of_attention' is not known here"),
        ("vae", {"latents_mean": [0.0] * 4}, "'latents_mean'"),
        ("vae", {"latents_std": [1.0] * 4}, "'latents_std'"),
        ("vae", {"shift_factor": 0.1159}, "'shift_factor'"),
        ("vae", {"scaling_factor": 0}, "'scaling_factor': expected a number greater than 0"),
        ("vae", {"scaling_factor": float("inf")}, "'scaling_factor': expected a finite number"),
        ("vae", {"_class_name": "AsymmetricAutoencoderKL"}, "expected AutoencoderKL"),
        ("vae", {"down_block_types": ["AttnDownEncoderBlock2D"] * 4}, r"'down_block_types\[0\]'"),
        ("vae", {"layers_per_block": 10**9}, "'layers_per_block'"),
        ("vae", {"in_channels": 4}, "'in_channels': .*expected 3, but it is 4"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "'num_hidden_layers'"),
        ("text_encoder", {"hidden_size": 2**33}, "'hidden_size'"),
        ("text_encoder", {"num_attention_heads": 0}, "'num_attention_heads'"),
        ("text_encoder", {"num_attention_heads": 5}, "16 is no multiple of 'num_attention_heads' 5"),
        ("text_encoder", {"hidden_act": "x"}, "'hidden_act': expected 'quick_gelu'"),
        ("text_encoder", {"eos_token_id": -1}, "'eos_token_id'"),
        ("text_encoder", {"auto_map": {"AutoModel": "x.py"}}, "'auto_map' names code to import"),
        ("text_encoder", {"transformers_weights": "deep/w.safetensors"}, "'transformers_weights' names a weight file"),
        ("text_encoder", {"pruned_heads": {"0": [1]}}, "'pruned_heads'"),
    ],
)  # fmt: skip
def test_what_changes_the_arithmetic_or_cannot_be(part: str, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence) as caught:
        check_config(KINDS[part], {**own(part), **changes}, f"{part}/config.json")
    assert f"{part}/config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal", "__attn_implementation"]
)
@pytest.mark.parametrize(
    "kernel", ["kernels-community/flash-attn3", "someone/x@main:run", "flash_attention_2", {"": "x/y"}]
)
def test_no_attention_kernel_is_taken_from_a_file(name: str, kernel: Any) -> None:
    with pytest.raises(ConductorError, match="names an attention kernel; the attention is chosen here"):
        check_config(TextEncoderConfig, {**own("text_encoder"), name: kernel}, "config.json")


@pytest.mark.parametrize("changes", [{"_attn_implementation": "sdpa"}, {"_attn_implementation_autoset": True}])
def test_what_transformers_writes_down_itself_is_dropped(changes: dict[str, Any]) -> None:
    config = own("text_encoder")
    assert check_config(TextEncoderConfig, {**config, **changes}, "x") == check_config(TextEncoderConfig, config, "x")


def test_what_may_vary_is_honoured() -> None:
    config = {**own("text_encoder"), "hidden_act": "gelu", "layer_norm_eps": 1e-3, "num_hidden_layers": 1}
    with torch.device("meta"):
        (encoder,) = MetaModel({"text_encoder": check_config(TextEncoderConfig, config, "x")}).networks().values()
    assert (encoder.config.hidden_act, encoder.config.layer_norm_eps, len(encoder.encoder.layers)) == ("gelu", 1e-3, 1)
    assert encoder.config._attn_implementation == "sdpa"


def test_training_leaves_harmless_names() -> None:
    averaged = {
        "decay": 0.9999,
        "min_decay": 0.0,
        "optimization_step": 5,
        "use_ema_warmup": False,
        "_name_or_path": "/x",
    }
    assert check_config(UNetConfig, {**own("unet"), **averaged}, "x") == check_config(UNetConfig, own("unet"), "x")


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.integers(), st.floats(), st.text(max_size=3),
    st.lists(st.integers(-1, 40), max_size=5), st.just({}), st.just({"a": 1}), st.just([[1, 2]] * 3),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data(), part=st.sampled_from(["unet", "vae", "text_encoder"]))
def test_any_value_anywhere_is_taken_or_refused_in_one_sentence(data: st.DataObject, part: str) -> None:
    """A network is made of what is taken; nothing that diffusers or transformers says comes through."""
    config = json.loads((TINY / part / "config.json").read_text())
    names = st.sampled_from([*config, *KINDS[part].model_fields, "_attn_implementation", "x"])
    config.update(data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=2)))
    try:
        passed = check_config(KINDS[part], config, f"{part}/config.json")
        if part != "unet":  # which takes longest to make, and has the strictest rules
            with torch.device("meta"):
                MetaModel({part: passed}).networks()
    except ConductorError as error:
        assert "\n" not in str(error)
