"""Algorithm 1 on planted attention whose segments are known."""

from __future__ import annotations

import torch

from concept_conductor.denoiser.masks import Masks
from concept_conductor.method.refinement import RefinedMasks, best_match
from concept_conductor.settings import Refinement

SETTINGS = Refinement(start=0.25, end=0.4, every=5, overlap_threshold=0.0)
SIDE = 8


def rectangle(top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def planted(*segments: torch.Tensor, noise: float = 0.02, seed: int = 0) -> torch.Tensor:
    """Attention in which every token attends to its own segment, ``(tokens, tokens)``."""
    label = torch.zeros(SIDE * SIDE, dtype=torch.long)
    for index, segment in enumerate(segments, start=1):
        label[segment.flatten()] = index
    same = (label[:, None] == label[None]).float()
    same += noise * torch.rand(same.shape, generator=torch.Generator().manual_seed(seed))
    return same / same.sum(1, keepdim=True)


def start(*masks: torch.Tensor) -> RefinedMasks:
    return RefinedMasks(Masks(torch.stack(masks)[None]))


def test_masks_move_to_the_planted_shapes() -> None:
    left, right = rectangle(1, 0, 7, 3), rectangle(2, 5, 8, 8)
    own_left, own_right = rectangle(0, 0, 7, 4), rectangle(2, 4, 8, 8)
    attention = torch.stack([planted(left, right), planted(own_left, right), planted(left, own_right)])[:, None]
    masks = start(rectangle(2, 0, 6, 3), rectangle(3, 5, 7, 8)).refined(attention, 50, SETTINGS)
    assert torch.equal(masks.fused.grid[0, 0], left | own_left)
    assert torch.equal(masks.fused.grid[0, 1], right | own_right)


def test_where_refined_masks_overlap_the_masks_before_hold() -> None:
    left, right = rectangle(0, 0, 8, 3), rectangle(0, 5, 8, 8)
    wide_left, wide_right = rectangle(0, 0, 8, 5), rectangle(0, 3, 8, 8)  # they share columns 3 and 4
    attention = torch.stack([planted(left, right), planted(wide_left), planted(wide_right)])[:, None]
    masks = start(left, right).refined(attention, 50, SETTINGS)
    assert torch.equal(masks.fused.grid[0, 0], left)
    assert torch.equal(masks.fused.grid[0, 1], right)


def test_running_masks_are_not_fed_the_fused_ones() -> None:
    left, own = rectangle(0, 0, 8, 2), rectangle(0, 0, 8, 4)
    right = rectangle(0, 6, 8, 8)
    attention = torch.stack([planted(left, right), planted(own, right), planted(left, right)])[:, None]
    masks = start(left, right).refined(attention, 50, SETTINGS)
    assert torch.equal(masks.own[0, 0].view(SIDE, SIDE), own)
    assert torch.equal(masks.base[0, 0].view(SIDE, SIDE), left)
    assert torch.equal(masks.fused.grid[0, 0], own)


def test_images_are_refined_each_on_their_own() -> None:
    a, b, c = rectangle(0, 0, 8, 3), rectangle(0, 5, 8, 8), rectangle(0, 0, 4, 3)
    one = torch.stack([planted(a, b), planted(a, b), planted(a, b)])[:, None]
    two = torch.stack([planted(c, b), planted(c, b), planted(c, b)])[:, None]
    both = RefinedMasks(Masks(torch.stack([a, b])[None].expand(2, -1, -1, -1)))
    together = both.refined(torch.cat([one, two], 1), 50, SETTINGS).fused.grid
    for index, attention in enumerate((one, two)):  # an image that sees the other's attention is off by 12 tokens
        alone = start(a, b).refined(attention, 50, SETTINGS).fused.grid[0]
        assert (together[index] ^ alone).sum() <= 2


def test_below_the_threshold_the_bounding_rectangle_stays() -> None:
    before = rectangle(1, 1, 4, 4)
    before[1, 1] = False
    candidates = torch.stack([rectangle(0, 0, 8, 8), rectangle(3, 3, 8, 8)]).flatten(1)[None]
    kept = best_match(candidates, before.flatten()[None], (SIDE, SIDE), 0.7)[0].view(SIDE, SIDE)
    assert torch.equal(kept, rectangle(1, 1, 4, 4))
    taken = best_match(candidates, before.flatten()[None], (SIDE, SIDE), 0.0)[0].view(SIDE, SIDE)
    assert torch.equal(taken, rectangle(0, 0, 8, 8))


def test_one_concept_and_many() -> None:
    for concepts in (1, 4):
        columns = [rectangle(0, 2 * i, 8, 2 * i + 1) for i in range(concepts)]
        attention = torch.stack([planted(*columns)] * (concepts + 1))[:, None]
        masks = start(*columns).refined(attention, 50, SETTINGS)
        assert torch.equal(masks.fused.grid[0], torch.stack(columns))
