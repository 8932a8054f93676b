from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_conductor import ConductorError
from concept_conductor.denoiser.masks import Masks, bounding_rectangle, resize, token_grid
from concept_conductor.io.tensors import mask_pixels
from concept_conductor.method.refinement import iou, resolve_overlaps
from concept_conductor.pipeline.masks import checked_masks

seeds = st.integers(0, 2**31 - 1)


def random_masks(seed: int, *shape: int, share: float = 0.5) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


@given(height=st.integers(1, 12), width=st.integers(1, 12), factor=st.sampled_from([1, 2, 4, 8]))
def test_token_grid_of_any_aspect_ratio(height: int, width: int, factor: int) -> None:
    assert token_grid(height * width, (height * factor, width * factor)) == (height, width)


def test_token_grid_refuses_what_does_not_divide() -> None:
    with pytest.raises(ConductorError, match="60 tokens does not divide the latent grid 16x16"):
        token_grid(60, (16, 16))


@settings(deadline=None)
@given(seed=seeds, height=st.sampled_from([4, 8]), width=st.sampled_from([4, 8, 16]), factor=st.sampled_from([1, 2, 4]))
def test_masks_of_a_layer_survive_the_latent_grid(seed: int, height: int, width: int, factor: int) -> None:
    """Refinement works on a layer's grid: what it decides must be what that layer sees."""
    tokens = random_masks(seed, 2, 3, height * width)
    empty = Masks(torch.zeros(2, 3, height * factor, width * factor, dtype=torch.bool))
    assert torch.equal(empty.with_tokens(tokens).tokens(height * width), tokens)


@settings(deadline=None)
@given(seed=seeds, size=st.sampled_from([4, 8, 32]))
def test_full_and_empty_masks_stay_so_at_any_resolution(seed: int, size: int) -> None:
    assert resize(torch.ones(1, 1, 16, 16, dtype=torch.bool), (size, size)).all()
    assert not resize(torch.zeros(1, 1, 16, 16, dtype=torch.bool), (size, size)).any()


@given(seed=seeds)
def test_iou_is_one_for_itself_and_symmetric(seed: int) -> None:
    a, b = random_masks(seed, 12), random_masks(seed + 1, 12)
    a[0] = True
    assert iou(a[None], a)[0] == 1
    assert torch.allclose(iou(a[None], b), iou(b[None], a))
    assert 0 <= iou(a[None], b)[0] <= 1


@given(seed=seeds)
def test_bounding_rectangle_holds_the_mask_and_is_a_rectangle(seed: int) -> None:
    mask = random_masks(seed, 6, 9, share=0.1)
    box = bounding_rectangle(mask)
    assert (box | ~mask).all()
    assert torch.equal(box, box.any(1, keepdim=True) & box.any(0, keepdim=True))
    assert bool(box.any()) == bool(mask.any())
    if mask.any():
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert int(box.sum()) == int((rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1))


@given(seed=seeds, concepts=st.integers(1, 4))
def test_overlaps_fall_back_and_nothing_else_changes(seed: int, concepts: int) -> None:
    masks, before = random_masks(seed, 2, concepts, 20), random_masks(seed + 1, 2, concepts, 20)
    resolved = resolve_overlaps(masks, before)
    contested = masks.sum(1) > 1
    for image in range(2):
        assert torch.equal(resolved[image][:, contested[image]], before[image][:, contested[image]])
        assert torch.equal(resolved[image][:, ~contested[image]], masks[image][:, ~contested[image]])


@pytest.mark.parametrize(
    "mask",
    [
        Image.new("L", (8, 8), 255),
        np.ones((8, 8), dtype=bool),
        np.full((8, 8), 255, dtype=np.uint8),
        np.ones((8, 8), dtype=np.float64),
        torch.ones(8, 8),
    ],
)
def test_masks_of_every_kind(mask: object) -> None:
    assert mask_pixels(mask, (16, 32)).shape == (32, 16)  # type: ignore[arg-type]
    assert int(mask_pixels(mask, (16, 32)).min()) == 255  # type: ignore[arg-type]


def test_empty_and_covered_masks_are_refused() -> None:
    full, empty = Image.new("L", (64, 64), 255), Image.new("L", (64, 64), 0)
    with pytest.raises(ConductorError, match="mask 2 is empty at the latent resolution 8x8"):
        checked_masks([full, empty], (64, 64), (8, 8))
    with pytest.raises(ConductorError, match="mask 1 is wholly covered by later masks"):
        checked_masks([full, full], (64, 64), (8, 8))


@settings(deadline=None, max_examples=20)
@given(seed=seeds, cells=st.integers(0, 4))
def test_a_margin_reaches_as_far_as_asked_and_leaves_others_theirs(seed: int, cells: int) -> None:
    masks = Masks(random_masks(seed, 2, 3, 12, 20, share=0.05))
    margin = cells / 12
    grown = masks.grown(margin).grid
    for image in range(2):
        for concept in range(3):
            others = masks.grid[image, [i for i in range(3) if i != concept]].any(0)
            for row, column in np.ndindex(12, 20):
                rows, columns = (
                    slice(max(0, row - cells), row + cells + 1),
                    slice(max(0, column - cells), column + cells + 1),
                )
                near = bool(masks.grid[image, concept, rows, columns].any())
                expected = bool(masks.grid[image, concept, row, column]) or (near and not others[row, column])
                assert bool(grown[image, concept, row, column]) == expected


@settings(deadline=None, max_examples=20)
@given(seed=seeds, factor=st.sampled_from([1, 2, 4]))
def test_outlines_are_kept_where_tokens_stay_what_they_were(seed: int, factor: int) -> None:
    masks = Masks(random_masks(seed, 2, 3, 4 * factor, 8 * factor))
    tokens = masks.tokens(32)
    assert torch.equal(masks.with_changed_tokens(tokens).grid, masks.grid)
    changed = tokens ^ random_masks(seed + 1, 2, 3, 32, share=0.2)
    after, whole = masks.with_changed_tokens(changed).grid, masks.with_tokens(changed).grid
    differs = masks.with_tokens(changed ^ tokens).grid
    assert torch.equal(after[differs], whole[differs])
    assert torch.equal(after[~differs], masks.grid[~differs])
