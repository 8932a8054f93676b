"""Rows of a forward by path, and Eq. 4 on them, against loops written out."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from torch import Tensor

from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import Forward, Fusion, Paths
from concept_conductor.settings import Injection

PATHS, GUIDANCE, IMAGES, LAYERS, TOKENS, DIM = 3, 2, 2, 4, 5, 6
SIDE, CHANNELS = 4, 7


def forward(present: slice = slice(0, PATHS), fusion: Fusion | None = None) -> Forward:
    texts = torch.randn(PATHS, GUIDANCE, LAYERS, TOKENS, DIM, generator=torch.Generator().manual_seed(0))
    return Forward(present, texts[present], IMAGES, fusion=fusion)


def features(seed: int = 1) -> Tensor:
    """An attention layer's output for every path, ``(paths, guidance, images, tokens, channels)``."""
    return torch.randn(PATHS, GUIDANCE, IMAGES, SIDE * SIDE, CHANNELS, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def masks() -> Masks:
    """The first concept in the upper half, the second in the left one: a quarter belongs to both, one to none."""
    grid = torch.zeros(IMAGES, PATHS - 1, SIDE, SIDE, dtype=torch.bool)
    grid[:, 0, :2] = True
    grid[:, 1, :, :2] = True
    grid[1, 1, 3] = False
    return Masks(grid)


def equation_4(every: Tensor, masks: Masks) -> Tensor:
    """The base path's features, concept after concept: f_0 <- f_0 (1 - M_i) + f_i M_i."""
    base = every[0].clone()
    for concept in range(PATHS - 1):
        for image in range(IMAGES):
            inside = masks.tokens(SIDE * SIDE)[image, concept].float()[:, None]
            base[:, image] = base[:, image] * (1 - inside) + every[concept + 1, :, image] * inside
    return base


def test_rows_are_ordered_by_path_then_guidance_then_image() -> None:
    now = forward()
    rows = now.rows_of_text(2)
    assert rows.shape == (PATHS * GUIDANCE * IMAGES, TOKENS, DIM)
    for row, text in enumerate(rows):
        path, guidance = row // (GUIDANCE * IMAGES), row // IMAGES % GUIDANCE
        assert torch.equal(text, now.texts[path, guidance, 2])
    numbered = torch.arange(len(rows)).view(-1, 1)
    assert now.by_path(numbered)[2, 1, 0].item() == 2 * GUIDANCE * IMAGES + IMAGES


def test_features_are_fused_by_equation_4(masks: Masks) -> None:
    every = features()
    now = forward(fusion=Fusion(masks, Injection(blocks=("up",)), record=False))
    fused = now.by_path(now.fuse(0, every.flatten(0, 2).clone(), "up", cross_attention=True))
    torch.testing.assert_close(fused[0], equation_4(every, masks))
    assert torch.equal(fused[1:], every[1:])  # concept paths keep their own features
    both = masks.tokens(SIDE * SIDE)[0].all(0)
    assert both.any() and torch.equal(fused[0, :, 0, both], every[2, :, 0, both])  # the later concept wins


@pytest.mark.parametrize("chunks", [[slice(1, 3), slice(0, 1)], [slice(2, 3), slice(1, 2), slice(0, 1)]])
def test_paths_in_turn_are_fused_as_all_at_once(masks: Masks, chunks: list[slice]) -> None:
    """The base path comes last, and what concepts computed before is kept for it, layer by layer."""
    layers = [features(seed) for seed in (1, 2)]
    fusion = Fusion(masks, Injection(blocks=("up",)), record=False)
    for present in chunks:
        now = forward(present, fusion)
        for layer, every in enumerate(layers):
            output = every[present].flatten(0, 2).clone()
            fused = now.by_path(now.fuse(layer, output, "up", cross_attention=False))
            expected = every[present] if present.start else equation_4(every, masks)[None]
            torch.testing.assert_close(fused, expected)
    assert not fusion.kept


@pytest.mark.parametrize(
    ("injection", "block", "cross_attention"),
    [
        (None, "up", True),
        (Injection(blocks=("up",)), "mid", True),
        (Injection(blocks=("up",), self_attention=False), "up", False),
        (Injection(blocks=("up",), cross_attention=False), "up", True),
    ],
)
def test_layers_that_are_not_fused_are_left_alone(
    masks: Masks, injection: Injection | None, block: str, cross_attention: bool
) -> None:
    output = features().flatten(0, 2)
    fusion = None if injection is None else Fusion(masks, injection, record=False)
    assert forward(fusion=fusion).fuse(0, output, block, cross_attention=cross_attention) is output  # type: ignore[arg-type]


def test_what_follows_from_the_texts_is_computed_once_and_without_a_graph() -> None:
    leaf, calls = torch.ones(2, requires_grad=True), []

    def compute() -> Tensor:
        calls.append(1)
        return leaf * 2

    now = forward()
    assert now.remember("keys", compute).requires_grad and len(calls) == 1  # nothing is kept unless asked
    now.remembered = {}
    first = now.remember("keys", compute)
    assert now.remember("keys", compute) is first and len(calls) == 2
    assert not first.requires_grad
    assert now.remember("values", compute) is not first and len(calls) == 3


def test_layers_see_a_forward_only_while_it_runs() -> None:
    paths, outer, inner = Paths(), forward(), forward(slice(1, 2))
    with pytest.raises(RuntimeError, match="outside of a multipath forward"):
        _ = paths.forward
    with paths.running(outer):
        with suppress(ZeroDivisionError), paths.running(inner):  # as gradient checkpointing runs a part again
            assert paths.present == slice(1, 2)
            raise ZeroDivisionError
        assert paths.forward is outer
    with pytest.raises(RuntimeError):
        _ = paths.present
