"""Names and order of a U-Net's attention layers."""

from __future__ import annotations

import pytest
from torch import nn

from concept_conductor import ConceptConductorPipeline
from concept_conductor.denoiser.layers import (
    attention_layers,
    block_of,
    cross_attention,
    cross_attention_names,
    self_attention,
    unwrap_compiled,
)
from concept_conductor.errors import ConductorError

DOWN = "down_blocks.0.attentions.0.transformer_blocks.0.attn"


def test_layers_stand_in_down_mid_up_order(tiny_pipe: ConceptConductorPipeline) -> None:
    """Sixteen of each kind in SD1.5; diffusers' own order is down, up, mid."""
    names = list(attention_layers(tiny_pipe.unet))
    blocks = [block_of(name) for name in names]
    assert blocks == ["down"] * 12 + ["mid"] * 2 + ["up"] * 18
    assert names[:2] == [f"{DOWN}1", f"{DOWN}2"]
    assert cross_attention_names(tiny_pipe.unet) == [name for name in names if name.endswith("attn2")]


def test_a_layer_is_found_by_name_and_kind(tiny_pipe: ConceptConductorPipeline) -> None:
    unet = tiny_pipe.unet
    assert self_attention(unet, f"{DOWN}1", "layout layer") is unet.get_submodule(f"{DOWN}1")
    assert cross_attention(unet, f"{DOWN}2", "word layer") is unet.get_submodule(f"{DOWN}2")
    for find, name, kind in ((self_attention, f"{DOWN}2", "self"), (cross_attention, "conv_in", "cross")):
        ending = "attn1" if kind == "self" else "attn2"
        with pytest.raises(
            ConductorError, match=rf"the layer '{name}' is no {kind}-attention .* 'up_blocks.*{ending}'"
        ):
            find(unet, name, "layer")


def test_a_compiled_unet_is_looked_into() -> None:
    wrapper, inner = nn.Module(), nn.Linear(1, 1)
    wrapper._orig_mod = inner
    assert unwrap_compiled(wrapper) is inner and unwrap_compiled(inner) is inner
