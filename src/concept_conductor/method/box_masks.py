"""Masks inside of boxes: what of the reference's regions lies mostly in each box."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.errors import ConductorError

#: A box as fractions of the image's width and height: left, top, right, bottom, each 0..1.
FractionBox = tuple[float, float, float, float]
#: Regions that cover less of their box than this are not the object in it.
LEAST_FIT = 0.25


logger = logging.getLogger(__name__)


def masks_in_boxes(
    labels: Tensor, grid: tuple[int, int], fractions: Sequence[FractionBox], size: tuple[int, int] | None = None
) -> Tensor:
    """Return what of the reference's regions lies mostly in each box; the box, with a warning, where nothing does.

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
    """Return the mask, or the box where the mask is too small a part of it to be the object in it."""
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
    """Return each token's region's share in each box, ``(concepts, tokens)``.

    Args:
        regions: which region each token belongs to, ``(tokens,)``.
        shares: how much of each token lies in each box, ``(concepts, tokens)``.
    """
    members = F.one_hot(regions).to(shares)  # (tokens, regions)
    mean = (shares @ members) / members.sum(0).clamp(min=1)
    return mean @ members.T


def _inside(box: FractionBox, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return which places of a grid have their middle in the box, ``(h, w)``."""
    left, top, right, bottom = box
    rows, columns = ((torch.arange(count, device=device) + 0.5) / count for count in size)
    return ((top <= rows) & (rows < bottom))[:, None] & ((left <= columns) & (columns < right))


def _covered(box: FractionBox, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return how much of each place of a grid lies in the box, 0..1, ``(h * w,)``."""

    def along(count: int, first: float, last: float) -> Tensor:
        edges = torch.arange(count + 1, device=device) / count
        return (edges[1:].clamp(max=last) - edges[:-1].clamp(min=first)).clamp(min=0) * count

    left, top, right, bottom = box
    return (along(size[0], top, bottom)[:, None] * along(size[1], left, right)).flatten()
