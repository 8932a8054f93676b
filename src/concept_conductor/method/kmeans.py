"""Batched K-Means on one device: all restarts of a K at once, for as many sets of points as memory should hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

#: Lloyd iterations after which a run that still moves is taken as it is.
MAX_ITERATIONS = 100

#: Numbers in the largest tensor (8 MiB). All sets and K at once would cost the cube of the number of concepts.
BATCH_NUMBERS = 2**21


def kmeans(points: Tensor, ks: Sequence[int], *, seeds: Tensor, restarts: int = 10) -> Tensor:
    """Cluster every set of points with every K: k-means++ starts, the restart of least inertia.

    Distances come from the points' Gram matrix: a centroid is the mean of its members, so its distance to a
    point is a sum of inner products, and one iteration costs tokens x tokens x clusters whatever the points'
    dimension. Random numbers come from streams of their own, one for each set and K, so that a set's labels
    do not depend on what else is in the batch.

    Args:
        points: ``(sets, points, dim)``, any floating dtype.
        ks: numbers of clusters, each from 1 to the number of points.
        seeds: ``(sets,)`` integers.
        restarts: runs per set and K.

    Returns:
        Labels ``(sets, len(ks), points)`` in ``0..k-1``.

    Raises:
        ValueError: a K out of range.
    """
    count = points.shape[1]
    if not ks or min(ks) < 1 or max(ks) > count:
        raise ValueError(f"K must lie between 1 and the number of points {count}, but got {list(ks)}")
    share = max(1, BATCH_NUMBERS // (count * max(count, restarts * max(ks))))
    batches = zip(points.split(share), seeds.split(share), strict=True)
    return torch.cat([labels_of_a_batch(some, ks, own, restarts) for some, own in batches])


def labels_of_a_batch(points: Tensor, ks: Sequence[int], seeds: Tensor, restarts: int) -> Tensor:
    """Labels ``(sets, len(ks), points)`` of sets that are clustered together, one K after the other."""
    gram = gram_matrix(points)
    draws = uniform_draws(seeds, ks, restarts, max(ks)).to(points.device)
    return torch.stack([clustered(gram, draws[:, i, :, :k]) for i, k in enumerate(ks)], dim=1)


def gram_matrix(points: Tensor) -> Tensor:
    """Inner products of the centred points, ``(sets, points, points)``."""
    centred = points.float() - points.float().mean(1, keepdim=True)  # keeps the distances, spares the digits
    return centred @ centred.transpose(1, 2)


def clustered(gram: Tensor, draws: Tensor) -> Tensor:
    """Return the labels of the best run, ``(sets, points)``.

    Args:
        gram: ``(sets, points, points)``.
        draws: ``(sets, runs, clusters)`` in 0..1.
    """
    labels, inertia = assign(gram, plus_plus(gram, draws))
    for _ in range(MAX_ITERATIONS):
        moved, inertia = assign(gram, memberships(gram, labels, draws.shape[2]))
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels.take_along_dim(inertia.argmin(1)[:, None, None], 1).squeeze(1)


def uniform_draws(seeds: Tensor, ks: Sequence[int], restarts: int, clusters: int) -> Tensor:
    """Numbers in 0..1, ``(sets, len(ks), restarts, clusters)``, from one stream per set and K."""
    draws = []
    for seed in seeds.tolist():
        for k in ks:
            stream = torch.Generator().manual_seed((int(seed) * 1_000_003 + k) % 2**63)
            draws.append(torch.rand(restarts, clusters, generator=stream))
    return torch.stack(draws).unflatten(0, (len(seeds), len(ks)))


def plus_plus(gram: Tensor, draws: Tensor) -> Tensor:
    """Draw k-means++ starts: each further one with probability proportional to its squared distance.

    Returns:
        Memberships of the starts, ``(sets, runs, clusters, points)``: one point each.
    """
    sets, runs, clusters = draws.shape
    count = gram.shape[-1]
    square = gram.diagonal(dim1=1, dim2=2)  # (sets, points)
    nearest = torch.ones(sets, runs, count, device=gram.device)
    starts = []
    for cluster in range(clusters):
        cumulative = (nearest + 1e-20).cumsum(-1)
        threshold = draws[..., cluster : cluster + 1] * cumulative[..., -1:]
        chosen = torch.searchsorted(cumulative, threshold).clamp(max=count - 1)[..., 0]  # (sets, runs)
        starts.append(chosen)
        rows = gram.take_along_dim(chosen.reshape(sets, runs, 1), 1)  # (sets, runs, points)
        distance = (square[:, None] + square.gather(1, chosen)[..., None] - 2 * rows).clamp(min=0)
        nearest = distance if cluster == 0 else torch.minimum(nearest, distance)
    chosen = torch.stack(starts, -1)[..., None]  # (sets, runs, clusters, 1)
    return (chosen == torch.arange(count, device=gram.device)).float()


def memberships(gram: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Which points a cluster has, ``(sets, runs, clusters, points)``; an empty one takes a worst served point."""
    member = (labels[:, :, None] == torch.arange(clusters, device=labels.device)[:, None]).float()
    empty = ~member.any(3)  # (sets, runs, clusters)
    if empty.any():
        distance = squared_distances(gram, member).take_along_dim(labels[:, :, None], 2)[:, :, 0]
        farthest = distance.argsort(-1, descending=True)  # a different point for each empty cluster
        rank = (empty.cumsum(-1) - 1).clamp(min=0)
        taken = farthest.take_along_dim(rank, 2)[..., None]  # (sets, runs, clusters, 1)
        points = torch.arange(labels.shape[-1], device=labels.device)
        member = torch.where(empty[..., None], (taken == points).float(), member)
    return member


def centroid_terms(gram: Tensor, member: Tensor) -> Tensor:
    """``|centroid|^2 - 2 point . centroid``, ``(sets, runs, clusters, points)``."""
    weight = member / member.sum(3, keepdim=True).clamp(min=1)
    inner = torch.bmm(weight.flatten(1, 2), gram).view_as(weight)  # point . centroid
    centroid = torch.linalg.vecdot(weight, inner)[..., None]
    return torch.add(centroid, inner, alpha=-2)


def squared_distances(gram: Tensor, member: Tensor) -> Tensor:
    """Squared distance of every point to every centroid, ``(sets, runs, clusters, points)``."""
    square = gram.diagonal(dim1=1, dim2=2)[:, None, None]
    return (square + centroid_terms(gram, member)).clamp(min=0)


def assign(gram: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid of every point ``(sets, runs, points)``, and the inertia ``(sets, runs)``."""
    # a point's own square is the same for all centroids: it is left out of the search and added to the sum
    nearest = centroid_terms(gram, member).min(2)
    return nearest.indices, nearest.values.sum(-1) + gram.diagonal(dim1=1, dim2=2).sum(-1, keepdim=True)
