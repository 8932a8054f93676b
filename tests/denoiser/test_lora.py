"""Every kind of layer runs path-wise as if each concept were merged into a model of its own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from concept_conductor.concepts.data import FullWeight, LowRank, Update
from concept_conductor.denoiser.convolution import PathwiseConv2d
from concept_conductor.denoiser.lora import find_layer, pathwise
from concept_conductor.errors import ConceptFileError
from tests.compare import ROUNDING, relative

TOLERANCE = 5e-5
PATHS = 4
#: Path -> rank; the first is the base path, the third has no update in the layer under test.
RANKS = {1: 3, 3: 6}

UNET_LAYERS = {
    "attention": r"attn[12]\.to_(q|k|v|out\.0)$",
    "feed-forward": r"ff\.net\.(0\.proj|2)$",
    "projections around the transformer": r"attentions\.\d\.proj_(in|out)$",
    "convolutions of a residual block": r"resnets\.\d\.conv[12]$",
    "1x1 shortcuts": r"conv_shortcut$",
    "downsampling": r"downsamplers\.0\.conv$",
    "upsampling": r"upsamplers\.0\.conv$",
    "first and last convolution": r"^conv_(in|out)$",
    "time embedding": r"^time_embedding\.linear_[12]$",
    "time in a residual block": r"time_emb_proj$",
    "everything": r"",
}


class Rows:
    """Which paths are present."""

    def __init__(self, present: slice) -> None:
        self.present = present


def tiny_unet(linear_projection: bool) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=12,
        attention_head_dim=2,
        use_linear_projection=linear_projection,
    ).requires_grad_(False)


def random_update(layer: nn.Module, rank: int) -> LowRank:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    out, width, *kernel = weight.shape
    return LowRank(torch.randn(rank, width, *kernel) * 0.2, torch.randn(out, rank) * 0.2)


def random_updates(model: nn.Module, pattern: str) -> list[dict[str, Update]]:
    """For each path, updates of all linear layers and convolutions whose names fit."""
    import re

    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and re.search(pattern, name)
    }
    assert layers
    return [
        {name: random_update(layer, RANKS[path]) for name, layer in layers.items()} if path in RANKS else {}
        for path in range(PATHS)
    ]


def merged(model: nn.Module, updates: dict[str, Update]) -> nn.Module:
    """A copy of the model with one concept in its weights."""
    own = copy.deepcopy(model)
    for name, update in updates.items():
        weight = own.get_submodule(find_layer(own, name)).weight
        if isinstance(update, FullWeight):
            weight.data += update.strength * (update.weight - weight)
        else:
            weight.data += torch.einsum("or,r...->o...", update.up, update.down)
    return own


def assert_as_merged(
    model: nn.Module, updates: list[dict[str, Update]], forward: Callable[[nn.Module, slice], Tensor], present: slice
) -> None:
    """Each path's rows of one batched forward equal the merged model's."""
    names = {name: type(module) for name, module in model.named_modules()}
    with torch.no_grad():
        with pathwise(model, updates, Rows(present)):
            together = forward(model, present).unflatten(0, (present.stop - present.start, -1))
        plain = forward(model, present).unflatten(0, (present.stop - present.start, -1))
        for place, path in enumerate(range(present.start, present.stop)):
            alone = forward(merged(model, updates[path]), slice(path, path + 1))
            assert (together[place] - alone).norm() <= TOLERANCE * alone.norm()
            if path in RANKS:
                assert (together[place] - plain[place]).norm() > 1e-3 * alone.norm(), "the updates had no effect"
    assert names == {name: type(module) for name, module in model.named_modules()}


def unet_forward(channels_last: bool = False) -> Callable[[nn.Module, slice], Tensor]:
    latents = torch.randn(2 * PATHS, 4, 8, 8)
    text = torch.randn(2 * PATHS, 5, 12)
    timesteps = torch.randint(0, 1000, (2 * PATHS,))

    def forward(unet: nn.Module, present: slice) -> Tensor:
        rows = slice(2 * present.start, 2 * present.stop)
        sample = latents[rows].to(memory_format=torch.channels_last) if channels_last else latents[rows]
        return unet(sample, timesteps[rows], text[rows], return_dict=False)[0]

    return forward


@pytest.mark.parametrize("linear_projection", [False, True])
@pytest.mark.parametrize("kind", list(UNET_LAYERS))
def test_unet_layers_equal_their_merged_model(kind: str, linear_projection: bool) -> None:
    unet = tiny_unet(linear_projection)
    updates = random_updates(unet, UNET_LAYERS[kind])
    for present in (slice(0, PATHS), slice(2, 4)):
        assert_as_merged(unet, updates, unet_forward(), present)


def test_channels_last_equals_the_merged_model() -> None:
    unet = tiny_unet(False).to(memory_format=torch.channels_last)
    assert_as_merged(unet, random_updates(unet, ""), unet_forward(channels_last=True), slice(0, PATHS))


def test_one_timestep_for_all_rows_is_enough() -> None:
    """The time embedding's rows are path-major also where one scalar timestep is given."""
    unet = tiny_unet(False)
    latents, text = torch.randn(2 * PATHS, 4, 8, 8), torch.randn(2 * PATHS, 5, 12)

    def forward(model: nn.Module, present: slice) -> Tensor:
        rows = slice(2 * present.start, 2 * present.stop)
        return model(latents[rows], torch.tensor(7), text[rows], return_dict=False)[0]

    assert_as_merged(unet, random_updates(unet, "time_emb"), forward, slice(0, PATHS))


@pytest.mark.parametrize("pattern", [r"self_attn\.", r"mlp\.fc[12]$", ""])
def test_text_encoder_layers_equal_their_merged_model(pattern: str) -> None:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    encoder = CLIPTextModel(config).requires_grad_(False).eval()
    ids = torch.randint(3, 48, (2 * PATHS, 7))

    def forward(model: nn.Module, present: slice) -> Tensor:
        return model(ids[2 * present.start : 2 * present.stop])[0]

    updates = random_updates(encoder, pattern)
    assert_as_merged(encoder, updates, forward, slice(0, PATHS))


def test_full_weights_equal_their_merged_model() -> None:
    """Custom Diffusion's weights, wide and tall, at a strength, beside a low-rank path."""
    unet = tiny_unet(False)
    updates = random_updates(unet, r"attn2\.to_[kv]$")
    for name in updates[1]:
        weight = unet.get_submodule(name).weight
        updates[1][name] = FullWeight(torch.randn_like(weight)).scaled(0.7)
    assert any(update.weight.shape[0] < update.weight.shape[1] for update in updates[1].values())
    assert any(update.weight.shape[0] > update.weight.shape[1] for update in updates[1].values())
    assert_as_merged(unet, updates, unet_forward(), slice(0, PATHS))


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, 2, 2)])
def test_convolutions_keep_stride_padding_and_dilation(stride: int, padding: int, dilation: int) -> None:
    base = nn.Conv2d(4, 6, 3, stride, padding, dilation)
    update = random_update(base, 2)
    x = torch.randn(2, 4, 9, 9)
    own = merged(nn.Sequential(base), {"0": update})
    layer = PathwiseConv2d(base, [None, update], Rows(slice(0, 2)))
    with torch.no_grad():
        assert torch.allclose(layer(torch.cat([x, x])), torch.cat([base(x), own(x)]), atol=1e-5)


def test_gradients_pass_through_convolutions_to_the_latents() -> None:
    base = nn.Conv2d(4, 6, 3, padding=1).requires_grad_(False)
    update = random_update(base, 2)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    PathwiseConv2d(base, [None, update], Rows(slice(0, 2)))(x).square().sum().backward()
    got, x.grad = x.grad, None
    own = merged(nn.Sequential(base), {"0": update})
    (base(x[:1]).square().sum() + own(x[1:]).square().sum()).backward()
    assert torch.allclose(got, x.grad, atol=1e-4)


def test_kernels_of_one_fit_both_kinds_of_projection() -> None:
    """A 1x1 kernel for a linear layer, and none for a 1x1 convolution, mean the same numbers."""
    name = "down_blocks.0.attentions.0.proj_in"
    for linear_projection in (False, True):
        unet = tiny_unet(linear_projection)
        update = random_update(unet.get_submodule(name), 2)
        flat = LowRank(update.down.flatten(1), update.up)
        kernel = LowRank(flat.down[..., None, None], update.up)
        forward = unet_forward()
        with torch.no_grad():
            results = []
            for form in (flat, kernel):
                with pathwise(unet, [{}, {name: form}], Rows(slice(0, 2))):
                    results.append(forward(unet, slice(0, 2)))
        assert relative(*results) < ROUNDING


@pytest.mark.parametrize(
    "update",
    [LowRank(torch.zeros(2, 8, 1, 1), torch.zeros(8, 2)), FullWeight(torch.zeros(8, 8))],
    ids=["kernel", "full weight"],
)
def test_updates_of_another_shape_are_refused(update: Update) -> None:
    unet = tiny_unet(False)
    with pytest.raises(
        ConceptFileError, match="'down_blocks.0.resnets.0.conv1' are made for .* but the model's is 8x8x3x3"
    ):
        with pathwise(unet, [{"down_blocks.0.resnets.0.conv1": update}], Rows(slice(0, 1))):
            pass
