"""Names of the layers that the families' U-Nets and text encoders have, in every spelling that files use.

A concept names layers as diffusers and transformers do: ``down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q``
and ``encoder.layers.0.self_attn.q_proj``. Stability's own code numbers the U-Net's blocks through
(``input_blocks.1.1.transformer_blocks.0.attn1.to_q``), and kohya's trainers write ``_`` for every ``.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache

UNET, TEXT_ENCODERS = "unet", ("text_encoder", "text_encoder_2")

#: The linear layers of a U-Net's attention layer, and of a text encoder's.
UNET_LINEARS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_LINEARS = ("q_proj", "k_proj", "v_proj", "out_proj")

# The most that one of the families has, counted on their published models by tests/concepts/test_layer_names.py.
BLOCKS, DEPTH, TEXT_DEPTH = 4, 10, 32
DOWN_LAYERS, UP_LAYERS = 2, 3

#: diffusers' name -> Stability's.
WHOLE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
RESIDUAL = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
#: How the text encoders' linear layers were called before they had names of their own.
OLD_TEXT_LINEARS = dict(zip(TEXT_LINEARS, ("to_q", "to_k", "to_v", "to_out")))
#: What wraps a text encoder in other programs, as often as it may be.
TEXT_WRAPPERS = re.compile(r"^((text_model|transformer)[._])+")
#: What a network is wrapped in while it is trained: PEFT, torch.compile, and torch's ways of sharing the work.
WRAPPERS = re.compile(
    r"(?:^|(?<=[._]))(?:base_model[._]model|_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module)[._]"
)


def resolve(model: str, spelling: str) -> str | None:
    """Return the layer that a file means, as diffusers or transformers call it; None where no family has it.

    Args:
        model: ``unet``, ``text_encoder`` or ``text_encoder_2``.
        spelling: the layer's name as a file has it, wrappers of a training included.
    """
    spelling = WRAPPERS.sub("", spelling)
    if model == UNET:
        return _unet_spellings().get(spelling.replace(".processor.", "."))
    return _text_spellings(model == TEXT_ENCODERS[1]).get(TEXT_WRAPPERS.sub("", spelling))


def unet_layers() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield every layer that a U-Net of the families can have: diffusers' name, and Stability's names for it."""
    for layer, name in WHOLE.items():
        yield layer, (name,)
    for number in range(BLOCKS):
        for index in range(DOWN_LAYERS):
            yield from _pair(f"down_blocks.{number}", index, f"input_blocks.{3 * number + 1 + index}")
        for index in range(UP_LAYERS):
            yield from _pair(f"up_blocks.{number}", index, f"output_blocks.{3 * number + index}")
    for number in range(BLOCKS - 1):
        yield f"down_blocks.{number}.downsamplers.0.conv", (f"input_blocks.{3 * number + 3}.0.op",)
        # it is counted after the block's attention, where there is one
        upsamplers = tuple(f"output_blocks.{3 * number + 2}.{place}.conv" for place in (1, 2))
        yield f"up_blocks.{number}.upsamplers.0.conv", upsamplers
    yield from _attention("mid_block.attentions.0", "middle_block.1")
    for index in (0, 1):
        for layer, names in _residual(f"mid_block.resnets.{index}", f"middle_block.{2 * index}"):
            if not layer.endswith("conv_shortcut"):  # it keeps the number of channels
                yield layer, names


def text_layers(second: bool) -> Iterator[str]:
    """Yield every layer that a text encoder can have; SDXL's ``second`` has a projection."""
    for number in range(TEXT_DEPTH):
        for linear in TEXT_LINEARS:
            yield f"encoder.layers.{number}.self_attn.{linear}"
        for linear in ("fc1", "fc2"):
            yield f"encoder.layers.{number}.mlp.{linear}"
    if second:
        yield "text_projection"


def _pair(block: str, index: int, stability: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield from _residual(f"{block}.resnets.{index}", f"{stability}.0")
    yield from _attention(f"{block}.attentions.{index}", f"{stability}.1")


def _residual(layer: str, stability: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name, other in RESIDUAL.items():
        yield f"{layer}.{name}", (f"{stability}.{other}",)


def _attention(layer: str, stability: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    linears = [f"attn{number}.{linear}" for number in (1, 2) for linear in UNET_LINEARS] + ["ff.net.0.proj", "ff.net.2"]
    inner = [f"transformer_blocks.{number}.{linear}" for number in range(DEPTH) for linear in linears]
    for name in ("proj_in", "proj_out", *inner):
        yield f"{layer}.{name}", (f"{stability}.{name}",)


@cache
def _unet_spellings() -> Mapping[str, str]:
    spellings: dict[str, str] = {}
    for layer, stability in unet_layers():
        for name in (layer, *stability):
            for spelling in (name, name.removesuffix(".0") if name.endswith("to_out.0") else name):
                spellings[spelling] = spellings[spelling.replace(".", "_")] = layer
    return spellings


@cache
def _text_spellings(second: bool) -> Mapping[str, str]:
    spellings: dict[str, str] = {}
    for layer in text_layers(second):
        owner, _, linear = layer.rpartition(".")
        for spelling in (layer, f"{owner}.{OLD_TEXT_LINEARS.get(linear, linear)}".removeprefix(".")):
            spellings[spelling] = spellings[spelling.replace(".", "_")] = layer
    return spellings
