"""Every layer of the families' networks is known, in every spelling, and nothing else."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from concept_conductor.backbones.meta import PUBLISHED
from concept_conductor.concepts import layer_names
from concept_conductor.concepts.layer_names import resolve, text_layers, unet_layers
from tests.stability import unet_layer

UNET = dict(unet_layers())
TEXT = ("text_encoder", "text_encoder_2")
TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
Q_PROJ = "encoder.layers.0.self_attn.q_proj"


def layers(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


@pytest.fixture(scope="module")
def published() -> dict[str, list[str]]:
    """Family -> its U-Net's layers."""
    with torch.device("meta"):
        return {
            family: layers(UNet2DConditionModel.from_config(configs["unet"])) for family, configs in PUBLISHED.items()
        }


@pytest.mark.parametrize("family", list(PUBLISHED))
def test_every_layer_of_the_published_unets_is_known_in_every_spelling(
    published: dict[str, list[str]], family: str
) -> None:
    names = published[family]
    assert len(names) == {"sd15": 282, "sd21": 282, "sdxl": 794}[family]
    attention = "CrossAttnUpBlock2D"
    up_blocks = PUBLISHED[family]["unet"].get("up_block_types", ("UpBlock2D", *(attention,) * 3))
    for name in names:
        block = int(name.split(".")[1]) if name.startswith("up_blocks") else None
        stability = unet_layer(name, block is None or up_blocks[block] == attention)
        assert stability in UNET[name]
        for spelling in (name, stability):
            assert resolve("unet", spelling) == name
            assert resolve("unet", spelling.replace(".", "_")) == name


def test_the_grammar_is_no_larger_than_the_published_unets(published: dict[str, list[str]]) -> None:
    """In number of blocks, layers of a block, and depth; not in which of them has which."""
    names = {name for each in published.values() for name in each}

    def numbers(pattern: str, within: set[str]) -> set[int]:
        return {int(match[1]) for name in within if (match := re.search(pattern, name))}

    for pattern in (r"^down_blocks\.(\d+)", r"^up_blocks\.(\d+)", r"transformer_blocks\.(\d+)", r"^up.*resnets\.(\d+)",
                    r"^down.*resnets\.(\d+)", r"^mid.*resnets\.(\d+)", r"^mid.*attentions\.(\d+)",
                    r"^down_blocks\.(\d+)\.downsamplers", r"^up_blocks\.(\d+)\.upsamplers"):  # fmt: skip
        assert numbers(pattern, set(UNET)) == numbers(pattern, names), pattern
    assert {re.sub(r"\d+", "#", name) for name in UNET} == {re.sub(r"\d+", "#", name) for name in names}


def test_no_spelling_means_two_layers() -> None:
    for name, others in UNET.items():
        for spelling in (name, *others):
            assert resolve("unet", spelling) == resolve("unet", spelling.replace(".", "_")) == name


@pytest.mark.parametrize("second", [False, True])
def test_every_layer_of_the_published_text_encoders_is_known(second: bool) -> None:
    config = PUBLISHED["sdxl"][TEXT[second]]
    with torch.device("meta"):
        network = (CLIPTextModelWithProjection if second else CLIPTextModel)(CLIPTextConfig.from_dict(config))
    names = [name.removeprefix("text_model.") for name in layers(network)]
    known = set(text_layers(second))
    assert len(names) == 6 * config["num_hidden_layers"] + second
    assert known >= set(names) and (not second or known == set(names))
    for name in names:
        for spelling in (name, f"text_model.{name}", f"transformer.text_model.{name}", f"text_model.text_model.{name}"):
            assert resolve(TEXT[second], spelling) == resolve(TEXT[second], spelling.replace(".", "_")) == name


@pytest.mark.parametrize(
    ("model", "spelling", "layer"),
    [
        ("unet", TO_K.replace(".to_k", ".processor.to_k"), TO_K),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_out",
         "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"),
        ("unet", "output_blocks.2.1.conv", "up_blocks.0.upsamplers.0.conv"),  # SD1.5's, without attention before it
        ("unet", "output_blocks_2_2_conv", "up_blocks.0.upsamplers.0.conv"),  # SDXL's
        ("unet", "_orig_mod_" + TO_K.replace(".", "_"), TO_K),
        ("text_encoder", Q_PROJ.replace("q_proj", "to_q"), Q_PROJ),
        ("text_encoder", "text_model.encoder.layers.0.self_attn.to_out", "encoder.layers.0.self_attn.out_proj"),
    ],
)  # fmt: skip
def test_older_spellings(model: str, spelling: str, layer: str) -> None:
    assert resolve(model, spelling) == layer


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("unet", "single_blocks.7.linear2"),
        ("unet", "single_transformer_blocks.7.proj_out"),
        ("unet", "layers_0_attention_qkv"),
        ("unet", TO_K.replace("down_blocks.1", "down_blocks.4")),
        ("unet", TO_K.replace("blocks.0.attn2", "blocks.10.attn2")),
        ("unet", TO_K.replace("attn2", "attn3")),
        ("unet", TO_K.replace("attentions.0", "attentions.2")),
        ("unet", "down_blocks.3.downsamplers.0.conv"),
        ("unet", "mid_block.attentions.1.proj_in"),
        ("unet", "input_blocks.12.1.proj_in"),
        ("unet", "conv_norm_out"),
        ("unet", ""),
        ("unet", f"{TO_K}.to_k"),
        ("unet", Q_PROJ),
        ("text_encoder", TO_K),
        ("text_encoder", "text_projection"),
        ("text_encoder", "encoder.layers.32.mlp.fc1"),
        ("text_encoder_2", "encoder.layers.0.layer_norm1"),
        ("text_encoder_2", "encoder.block.0.layer.0.SelfAttention.q"),
    ],
)
def test_what_no_network_has(model: str, name: str) -> None:
    assert resolve(model, name) is None
    assert resolve(model, name.replace(".", "_")) is None


@given(st.lists(st.sampled_from(["base_model.model.", "_orig_mod.", "module.", "_fsdp_wrapped_module."]), max_size=4),
       st.integers(0, 6))  # fmt: skip
@settings(max_examples=30, deadline=None)
def test_what_wraps_a_network_is_stripped_wherever_it_stands(wrappers: list[str], place: int) -> None:
    parts = TO_K.split(".")
    spelling = ".".join([*parts[:place], "".join(wrappers) + ".".join(parts[place:])])
    assert resolve("unet", spelling) == TO_K
    assert resolve("text_encoder", "".join(wrappers) + f"text_model.{Q_PROJ}") == Q_PROJ


def test_attention_has_the_linear_layers_that_are_listed() -> None:
    for model, known, owner, linears in (
        ("unet", set(UNET), TO_K.rpartition(".")[0], layer_names.UNET_LINEARS),
        ("text_encoder", set(text_layers(False)), Q_PROJ.rpartition(".")[0], layer_names.TEXT_LINEARS),
    ):
        inner = {name.removeprefix(f"{owner}.") for name in known if name.startswith(f"{owner}.")}
        assert inner == set(linears), model
