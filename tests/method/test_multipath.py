"""Everything put into the U-Net works path by path, and is taken out again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from concept_conductor import BusyError, ConceptConductorPipeline, ConceptFileError, ConceptPrompt, ConductorError
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.data import LowRank
from concept_conductor.denoiser.layers import attention_layers, block_of, cross_attention_names
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import Fusion
from concept_conductor.method.multipath import multipath
from concept_conductor.settings import Block, Injection

LINEAR = "up_blocks.2.attentions.0.transformer_blocks.0.attn1.to_q"
BATCHED_TOLERANCE = 5e-5


def snapshot(unet: torch.nn.Module) -> tuple[dict[str, type], dict[str, int], dict[str, Tensor]]:
    return (
        {name: type(module) for name, module in unet.named_modules()},
        {name: id(processor) for name, processor in unet.attn_processors.items()},  # type: ignore[attr-defined]
        {name: tensor.clone() for name, tensor in unet.state_dict().items()},
    )


def assert_same(before: tuple[dict, dict, dict], after: tuple[dict, dict, dict]) -> None:
    assert before[:2] == after[:2]
    assert before[2].keys() == after[2].keys()
    assert all(torch.equal(before[2][name], after[2][name]) for name in before[2])


def merged(unet: torch.nn.Module, updates: dict[str, LowRank]) -> torch.nn.Module:
    """A copy of the U-Net with one concept's weights merged into it, as the published code does."""
    own = copy.deepcopy(unet)
    for name, update in updates.items():
        own.get_submodule(name).weight.data += update.up @ update.down
    return own


@pytest.fixture(scope="module")
def three_paths(
    tiny_pipe: ConceptConductorPipeline, tiny_concepts: dict[str, ConceptPrompt]
) -> tuple[list[dict[str, LowRank]], Conditioning]:
    """Updates and conditioning of the base path and two concepts."""
    backbone = tiny_pipe.backbone
    texts = [[backbone.encode_prompt("a dog"), backbone.encode_prompt("")]]
    updates: list[dict[str, LowRank]] = [{}]
    for entry in list(tiny_concepts.values())[:2]:
        texts.append(backbone.encode_concept_prompts(entry.concept, 0.7, [entry.variant(""), ""]))
        updates.append(ScaledUpdates(entry.concept.unet, 0.7))
    return updates, Conditioning.stack(texts)


def test_every_path_equals_its_own_merged_model(
    tiny_pipe: ConceptConductorPipeline, three_paths: tuple[list[dict[str, LowRank]], Conditioning]
) -> None:
    """One batched forward against a copy of the U-Net for each concept; text is layer-wise in both."""
    updates, text = three_paths
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(400)
    backbone = tiny_pipe.backbone
    with torch.no_grad():
        with multipath(backbone, updates) as paths:
            batched = paths.predict(latents, t, text, slice(0, 3), None)  # (paths, guidance, images, 4, h, w)
        for path in range(3):
            alone = copy.copy(backbone)
            alone.unet = merged(backbone.unet, updates[path])
            own_text = Conditioning(text.texts[path : path + 1])
            with multipath(alone, [{}]) as one:
                expected = one.predict(latents, t, own_text, slice(0, 1), None)[0]
            difference = (batched[path] - expected).norm() / expected.norm()
            assert difference <= BATCHED_TOLERANCE
    assert (batched[0] - batched[1]).norm() / batched[0].norm() > 1e-3, "the concepts' weights had no effect"


@pytest.mark.parametrize("chunks", [[slice(1, 3), slice(0, 1)], [slice(2, 3), slice(1, 2), slice(0, 1)]])
def test_paths_one_after_another_inject_the_same(
    tiny_pipe: ConceptConductorPipeline,
    three_paths: tuple[list[dict[str, LowRank]], Conditioning],
    chunks: list[slice],
) -> None:
    updates, text = three_paths
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    grid = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    grid[0, 0, :, :9] = True
    grid[0, 1, :, 7:] = True  # they overlap: the later wins
    results = []
    with torch.no_grad(), multipath(tiny_pipe.backbone, updates) as paths:
        for run in ([slice(0, 3)], chunks):
            fusion = Fusion(Masks(grid), Injection(blocks=("up",)), record=True)
            for chunk in run:
                noise = paths.predict(latents, torch.tensor(500), text, chunk, fusion)
            results.append((noise[0], torch.cat(fusion.attention[::-1])))
            assert not fusion.kept
    for whole, split in zip(*results, strict=True):
        assert (whole - split).norm() / whole.norm() < 1e-5


@pytest.mark.parametrize(("blocks", "layers"), [(("up",), 18), (("down", "mid", "up"), 32)])
def test_overlaps_go_to_the_later_concept_and_outside_stays_the_base(
    tiny_pipe: ConceptConductorPipeline,
    three_paths: tuple[list[dict[str, LowRank]], Conditioning],
    blocks: tuple[Block, ...],
    layers: int,
) -> None:
    """Eq. 4 at the very layer: fused features are the last covering concept's, or the base path's own."""
    updates, text = three_paths
    grid = torch.zeros(1, 2, 16, 16, dtype=torch.bool)
    grid[0, 0, :8] = True
    grid[0, 1, 4:12] = True
    recorded: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), multipath(tiny_pipe.backbone, updates) as paths:
        from concept_conductor.denoiser.paths import Forward

        original: Callable[..., Tensor] = Forward.fuse

        def spy(self: Forward, layer: int, output: Tensor, block: Block, *, cross_attention: bool) -> Tensor:
            before = output.clone()
            fused = original(self, layer, output, block, cross_attention=cross_attention)
            if block in blocks:
                recorded.append((self.by_path(before), self.by_path(fused)))
            else:
                assert torch.equal(before, fused)
            return fused

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Forward, "fuse", spy)
            fusion = Fusion(Masks(grid), Injection(blocks=blocks), record=False)
            paths.predict(torch.randn(1, 4, 16, 16), torch.tensor(500), text, slice(0, 3), fusion)
    assert len(recorded) == layers
    for before, after in recorded:
        tokens = Masks(grid).tokens(before.shape[3])[0]
        owner = torch.where(tokens[1], 2, torch.where(tokens[0], 1, 0))
        for token, path in enumerate(owner.tolist()):
            assert torch.equal(after[0, ..., token, :], before[path, ..., token, :])
        assert torch.equal(after[1:], before[1:])


def test_layers_are_numbered_down_mid_up(tiny_pipe: ConceptConductorPipeline) -> None:
    names = cross_attention_names(tiny_pipe.unet)
    decoder = [name for name in attention_layers(tiny_pipe.unet) if block_of(name) == "up"]
    assert len(names) == 16 and len(decoder) == 18
    stages = [name.split("_")[0] for name in names]
    assert stages == ["down"] * 6 + ["mid"] + ["up"] * 9
    assert len(attention_layers(tiny_pipe.unet)) == len(tiny_pipe.unet.attn_processors)


def test_the_unet_is_identical_after_use_and_after_an_exception(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict
) -> None:
    before = snapshot(tiny_pipe.unet)
    text_before = snapshot_text(tiny_pipe)
    tiny_pipe(**tiny_call)
    assert_same(before, snapshot(tiny_pipe.unet))

    def fail(*_: object) -> None:
        raise RuntimeError("from the callback")

    with pytest.raises(RuntimeError, match="from the callback"):
        tiny_pipe(**tiny_call, callback_on_step_end=fail)
    assert_same(before, snapshot(tiny_pipe.unet))
    assert text_before == snapshot_text(tiny_pipe)
    assert not any(module._forward_hooks for module in tiny_pipe.text_encoder.modules())


def snapshot_text(pipe: ConceptConductorPipeline) -> dict[str, type]:
    return {name: type(module) for name, module in pipe.text_encoder.named_modules()}


def test_an_exception_inside_the_unet_leaves_it_identical(tiny_pipe: ConceptConductorPipeline, tiny_call: dict) -> None:
    before = snapshot(tiny_pipe.unet)

    def explode(*_: object) -> None:
        raise FloatingPointError("inside the U-Net")

    handle = tiny_pipe.unet.mid_block.register_forward_hook(explode)
    try:
        with pytest.raises(FloatingPointError):
            tiny_pipe(**tiny_call)
    finally:
        handle.remove()
    assert_same(before, snapshot(tiny_pipe.unet))
    tiny_pipe(**{**tiny_call, "num_inference_steps": 2})  # and it is not thought to be busy


@pytest.mark.parametrize(
    ("paths_per_forward", "said"), [(None, "set paths_per_forward=1, make smaller"), (1, "or use fewer concepts")]
)
def test_a_full_gpu_says_what_needs_less_and_leaves_the_unet_identical(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict, paths_per_forward: int | None, said: str
) -> None:
    before = snapshot(tiny_pipe.unet)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    handle = tiny_pipe.unet.mid_block.register_forward_hook(full)
    try:
        with pytest.raises(torch.OutOfMemoryError, match=f"{said}.*Tried to allocate"):
            tiny_pipe(**tiny_call, paths_per_forward=paths_per_forward)
    finally:
        handle.remove()
    assert_same(before, snapshot(tiny_pipe.unet))


def test_nested_use_is_an_error(tiny_pipe: ConceptConductorPipeline, tiny_call: dict) -> None:
    def again(pipe: ConceptConductorPipeline, *_: object) -> None:
        pipe(**tiny_call)

    with pytest.raises(BusyError, match="already sampling"):
        tiny_pipe(**tiny_call, callback_on_step_end=again)


def test_updates_that_match_no_layer_or_shape_are_refused(tiny_pipe: ConceptConductorPipeline) -> None:
    before = snapshot(tiny_pipe.unet)
    stray = {"up_blocks.9.nowhere": LowRank(torch.zeros(4, 16), torch.zeros(16, 4))}
    with pytest.raises(ConceptFileError, match="'up_blocks.9.nowhere' match no linear layer"):
        with multipath(tiny_pipe.backbone, [{}, stray]):
            pass
    wide = {LINEAR: LowRank(torch.zeros(4, 640), torch.zeros(640, 4))}
    with pytest.raises(ConceptFileError, match="made for a layer of shape 640x640"):
        with multipath(tiny_pipe.backbone, [{}, wide]):
            pass
    assert_same(before, snapshot(tiny_pipe.unet))


def test_unknown_layers_in_the_configuration_are_refused(tiny_pipe: ConceptConductorPipeline) -> None:
    backbone = tiny_pipe.backbone
    backbone.defaults = backbone.defaults.overridden({"layout_layer": "up_blocks.7.attn1"})
    with pytest.raises(ConductorError, match="layout layer 'up_blocks.7.attn1' is no self-attention layer"):
        with multipath(backbone, [{}]):
            pass


def test_ranks_may_differ_and_layers_may_be_missing(tiny_pipe: ConceptConductorPipeline) -> None:
    generator = torch.Generator().manual_seed(0)
    base = tiny_pipe.unet.get_submodule(LINEAR)
    small = LowRank(torch.randn(2, base.in_features, generator=generator), torch.randn(base.out_features, 2))
    large = LowRank(torch.randn(7, base.in_features, generator=generator), torch.randn(base.out_features, 7))
    x = torch.randn(3, 5, base.in_features, generator=generator)
    with torch.no_grad(), multipath(tiny_pipe.backbone, [{}, {LINEAR: small}, {LINEAR: large}, {}]) as paths:
        layer = tiny_pipe.unet.get_submodule(LINEAR)
        rows = torch.cat([x] * 4)
        layer.rows = type("Rows", (), {"present": slice(0, 4)})()
        got = layer(rows).unflatten(0, (4, 3))
        assert paths.count == 4
    plain = base(x)
    for path in (0, 3):
        assert torch.allclose(got[path], plain, atol=1e-6)
    assert torch.allclose(got[1], plain + x @ small.down.T @ small.up.T, atol=1e-4)
    assert torch.allclose(got[2], plain + x @ large.down.T @ large.up.T, atol=1e-4)
