"""Masks inside of boxes."""

from __future__ import annotations

import logging

import pytest
import torch

from concept_conductor.errors import ConductorError
from concept_conductor.layouts.boxes import check_boxes
from concept_conductor.method.box_masks import masks_in_boxes


def regions() -> torch.Tensor:
    """Two objects (1 and 2) on a background (0), on an 8x8 grid."""
    labels = torch.zeros(8, 8, dtype=torch.long)
    labels[2:6, 0:3] = 1
    labels[2:7, 5:8] = 2
    return labels.flatten()


def test_each_box_takes_the_region_that_fits_it() -> None:
    boxes = [(0.5, 0.125, 1.0, 1.0), (0.0, 0.125, 0.5, 0.875)]  # the right object first
    masks = masks_in_boxes(regions(), (8, 8), boxes)
    assert torch.equal(masks[0], regions() == 2)
    assert torch.equal(masks[1], regions() == 1)


def test_a_region_is_cut_to_its_box() -> None:
    (mask,) = masks_in_boxes(regions(), (8, 8), [(0.0, 0.25, 0.25, 0.75)])
    expected = (regions() == 1).reshape(8, 8).clone()
    expected[:, 2:] = False
    assert torch.equal(mask.reshape(8, 8), expected)


def test_a_box_that_no_region_fits_is_its_own_mask_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    stripes = torch.arange(64) % 8  # eight regions of one column each
    with caplog.at_level(logging.WARNING):
        (mask,) = masks_in_boxes(stripes, (8, 8), [(0.0, 0.0, 1.0, 0.5)])
    assert mask.reshape(8, 8)[:4].all() and not mask.reshape(8, 8)[4:].any()
    assert "no region of the layout image fits box 1" in caplog.text


def test_no_token_belongs_to_two_boxes() -> None:
    one, other = masks_in_boxes(regions(), (8, 8), [(0.0, 0.25, 0.375, 0.75), (0.25, 0.25, 1.0, 0.875)])
    assert not (one & other).any()


def test_a_box_without_tokens_is_refused() -> None:
    with pytest.raises(ConductorError, match="box 1 is too small for the 8x8 grid"):
        masks_in_boxes(regions(), (8, 8), [(0.01, 0.01, 0.02, 0.02)])


def test_all_regions_that_lie_mostly_in_a_box_are_its_mask() -> None:
    labels = regions().reshape(8, 8).clone()
    labels[2:4, 0:3] = 3  # the left object is two regions
    (mask,) = masks_in_boxes(labels.flatten(), (8, 8), [(0.0, 0.125, 0.5, 0.875)])
    assert torch.equal(mask, regions() == 1)


def test_what_two_boxes_hold_goes_to_the_one_that_holds_more_of_its_region() -> None:
    boxes = [(0.0, 0.0, 0.75, 1.0), (0.5, 0.0, 1.0, 1.0)]  # columns 4 and 5 are in both
    one, other = masks_in_boxes(regions(), (8, 8), boxes).reshape(2, 8, 8)
    assert other[2:7, 5:8].all() and not one[2:7, 5:8].any()
    assert one[2:6, 0:3].all()


def test_clusterings_vote() -> None:
    coarse = torch.zeros(64, dtype=torch.long)  # all is one region
    labels = torch.stack([regions(), coarse, regions()])
    (mask,) = masks_in_boxes(labels, (8, 8), [(0.0, 0.125, 0.5, 0.875)])
    assert torch.equal(mask, regions() == 1)


def test_masks_may_be_finer_than_regions() -> None:
    (mask,) = masks_in_boxes(regions(), (8, 8), [(0.0, 0.0, 0.3, 1.0)], (16, 16))
    fine = mask.reshape(16, 16)
    assert fine[5:11, :4].all() and not fine[:, 5:].any()  # cut at 0.3 of the width, between 4 and 5 of 16


def test_boxes_whose_area_is_no_number() -> None:
    tiny = (0.0, 0.0, 1e-200, 1e-200)
    check_boxes([tiny, tiny], (8, 8))
    with pytest.raises(ConductorError, match="box 1 is too small"):
        masks_in_boxes(regions(), (8, 8), [tiny, tiny])
