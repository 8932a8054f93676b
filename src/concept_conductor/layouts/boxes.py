"""Masks inside of boxes: what of the reference's regions lies mostly in each box."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.errors import ConductorError

#: A box in pixels of the reference image, from its upper left corner: left, top, right, bottom.
Box = tuple[float, float, float, float]

#: Of two boxes at most this share of the smaller one may lie in the other.
MOST_SHARED = 0.5
#: Regions that cover less of their box than this are not the object in it.
LEAST_FIT = 0.25

logger = logging.getLogger(__name__)


def check_boxes(boxes: Sequence[Box], size: tuple[int, int]) -> None:
    """Refuse boxes that are none, lie outside, or cover each other.

    Args:
        size: width and height of the image that they are given on.

    Raises:
        ConductorError: which box, and what is wrong with it.
    """
    width, height = size
    for number, (left, top, right, bottom) in enumerate(boxes, 1):
        shown = f"box {number} ({left:g}, {top:g}, {right:g}, {bottom:g})"
        if not (left < right and top < bottom):
            raise ConductorError(
                f"{shown} is empty; boxes are (left, top, right, bottom) in pixels of the layout image, left < right "
                "and top < bottom"
            )
        if left < 0 or top < 0 or right > width or bottom > height:
            raise ConductorError(
                f"{shown} reaches out of the layout image of {width}x{height} pixels; boxes are (left, top, right, "
                "bottom) from its upper left corner"
            )
    for (first, one), (second, other) in combinations(enumerate(boxes, 1), 2):
        across = min(one[2], other[2]) - max(one[0], other[0])
        down = min(one[3], other[3]) - max(one[1], other[1])
        smaller = max(min(area(one), area(other)), sys.float_info.min)  # the area of a tiny box may round to 0
        shared = max(0.0, across) * max(0.0, down) / smaller
        if shared > MOST_SHARED:
            raise ConductorError(
                f"boxes {first} and {second} share {shared:.0%} of the smaller one, but at most {MOST_SHARED:.0%} may "
                "overlap; draw them apart, or give masks instead of boxes"
            )


def area(box: Box) -> float:
    """Pixels in a box."""
    return (box[2] - box[0]) * (box[3] - box[1])


def masks_in_boxes(
    labels: Tensor, grid: tuple[int, int], fractions: Sequence[Box], size: tuple[int, int] | None = None
) -> Tensor:
    """What of the reference's regions lies mostly in each box; the box itself, and a warning, where nothing does.

    The share of a region that lies in a box is the vote of its tokens for being in the box's mask. Votes are averaged
    over the clusterings and brought to the grid of the result; a majority decides, and what is outside of the box is
    cut off. Where boxes overlap the one with more votes has the place, so that none has two concepts.

    Args:
        labels: which region each token belongs to, ``(tokens,)``, or ``(clusterings, tokens)`` for several K.
        grid: height and width of the tokens' grid.
        fractions: the boxes, as fractions of width and height.
        size: height and width of the grid of the result; None for the tokens'.

    Returns:
        ``(concepts, h * w)``, boolean.

    Raises:
        ConductorError: a box holds no place of the grid.
    """
    size = grid if size is None else size
    boxes = torch.stack([_inside(box, size, labels.device) for box in fractions])  # (concepts, h, w)
    for number, box in enumerate(boxes, 1):
        if not box.any():
            raise ConductorError(
                f"box {number} is too small for the {size[1]}x{size[0]} grid on which masks are; make it larger, or "
                "give masks instead of boxes"
            )
    shares = torch.stack([_covered(box, grid, labels.device) for box in fractions])  # (concepts, tokens)
    ballots = torch.stack([_votes(regions, shares) for regions in labels.reshape(-1, labels.shape[-1])])
    votes = ballots.mean(0).unflatten(1, grid)
    if size != grid:
        votes = F.interpolate(votes[None], size=size, mode="bilinear")[0]
    masks = (votes > 0.5) & boxes
    masks = torch.stack([_sized(number, mask, box) for number, (mask, box) in enumerate(zip(masks, boxes), 1)])
    owner = torch.where(masks, votes, -1).argmax(0)
    one_each = masks & (owner == torch.arange(len(masks), device=labels.device)[:, None, None])
    for number, (mask, before) in enumerate(zip(one_each, masks), 1):
        if before.any() and not mask.any():
            raise ConductorError(
                f"box {number} is covered by what is in other boxes; draw them apart, or give masks instead of boxes"
            )
    return one_each.flatten(1)


def _sized(number: int, mask: Tensor, box: Tensor) -> Tensor:
    """The mask, or the box where the mask is too small a part of it to be the object in it."""
    share = float(mask.sum() / box.sum())
    if share >= LEAST_FIT:
        return mask
    logger.warning(
        "no region of the layout image fits box %d (what lies mostly in it covers %.0f%% of it), so the whole box is "
        "its mask; draw the box closer around the object, say its 'words' too, or give a mask",
        number,
        100 * share,
    )
    return box


def _votes(regions: Tensor, shares: Tensor) -> Tensor:
    """Each token's region's share in each box, ``(concepts, tokens)``.

    Args:
        regions: which region each token belongs to, ``(tokens,)``.
        shares: how much of each token lies in each box, ``(concepts, tokens)``.
    """
    members = F.one_hot(regions).to(shares)  # (tokens, regions)
    mean = (shares @ members) / members.sum(0).clamp(min=1)
    return mean @ members.T


def _inside(box: Box, size: tuple[int, int], device: torch.device) -> Tensor:
    """Which places of a grid have their middle in the box, ``(h, w)``."""
    left, top, right, bottom = box
    rows, columns = ((torch.arange(count, device=device) + 0.5) / count for count in size)
    return ((top <= rows) & (rows < bottom))[:, None] & ((left <= columns) & (columns < right))


def _covered(box: Box, size: tuple[int, int], device: torch.device) -> Tensor:
    """How much of each place of a grid lies in the box, 0..1, ``(h * w,)``."""

    def along(count: int, first: float, last: float) -> Tensor:
        edges = torch.arange(count + 1, device=device) / count
        return (edges[1:].clamp(max=last) - edges[:-1].clamp(min=first)).clamp(min=0) * count

    left, top, right, bottom = box
    return (along(size[0], top, bottom)[:, None] * along(size[1], left, right)).flatten()
