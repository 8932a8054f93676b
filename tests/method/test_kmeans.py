from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from benchmarks.live_bytes import LiveBytes
from concept_conductor.method import kmeans as kmeans_module
from concept_conductor.method.kmeans import kmeans


def inertia(points: torch.Tensor, labels: torch.Tensor) -> float:
    """Sum of squared distances to the clusters' means."""
    total = 0.0
    for label in labels.unique():
        members = points[labels == label]
        total += float((members - members.mean(0)).square().sum())
    return total


@pytest.mark.parametrize("dim", [2, 64])
def test_inertia_matches_scikit_learn(dim: int) -> None:
    generator = torch.Generator().manual_seed(dim)
    centres = torch.randn(6, dim, generator=generator) * 2
    points = torch.stack(
        [centres[torch.randint(0, 6, (150,), generator=generator)] + torch.randn(150, dim, generator=generator)] * 3
    )
    ks = [2, 3, 5, 7]
    labels = kmeans(points, ks, seeds=torch.tensor([0, 1, 2]), restarts=20)
    for index, k in enumerate(ks):
        reference = KMeans(k, init="random", n_init=100, random_state=0).fit(points[0].numpy()).inertia_
        for found in labels[:, index]:
            assert inertia(points[0], found) <= reference * 1.01


def assert_same_clusters(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """The same but for a point between two clusters; from other seeds these points give indices of 0.2 to 0.8."""
    assert ours.shape == theirs.shape
    for one, other in zip(ours.flatten(0, 1), theirs.flatten(0, 1)):
        assert adjusted_rand_score(one, other) > 0.85


def test_a_set_does_not_depend_on_its_neighbours() -> None:
    points = torch.rand(4, 40, 8, generator=torch.Generator().manual_seed(0))
    seeds = torch.tensor([5, 6, 7, 8])
    together = kmeans(points, [3, 4], seeds=seeds)
    alone = torch.cat([kmeans(points[i : i + 1], [3, 4], seeds=seeds[i : i + 1]) for i in range(4)])
    assert_same_clusters(together, alone)


def test_sets_that_do_not_fit_together_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.rand(5, 40, 8, generator=torch.Generator().manual_seed(0))
    seeds = torch.arange(5)
    together = kmeans(points, [3, 4], seeds=seeds)
    monkeypatch.setattr(kmeans_module, "BATCH_NUMBERS", 2 * 40 * 40)
    assert_same_clusters(together, kmeans(points, [3, 4], seeds=seeds))


def test_memory_does_not_grow_with_the_number_of_sets() -> None:
    points = torch.rand(9, 256, 16, generator=torch.Generator().manual_seed(0))
    peaks = []
    for sets in (3, 9):
        with pytest.MonkeyPatch.context() as patch, LiveBytes() as tensors:
            patch.setattr(kmeans_module, "BATCH_NUMBERS", 256 * 256)
            kmeans(points[:sets], [3, 5], seeds=torch.arange(sets), restarts=2)
        peaks.append(tensors.peak)
    assert peaks[1] <= 1.2 * peaks[0]


def test_the_global_random_stream_is_untouched() -> None:
    before = torch.get_rng_state()
    kmeans(torch.rand(1, 20, 3, generator=torch.Generator().manual_seed(0)), [3], seeds=torch.tensor([0]))
    assert torch.equal(before, torch.get_rng_state())


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 30), copies=st.integers(1, 30), k=st.integers(1, 9), seed=st.integers(0, 2**30))
def test_labels_are_in_range_and_clusters_full_where_points_differ(count: int, copies: int, k: int, seed: int) -> None:
    """Also with many equal points, where clusters run empty."""
    distinct = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    points = distinct.repeat(copies, 1)[:60]
    k = min(k, len(points))
    labels = kmeans(points[None], [k], seeds=torch.tensor([seed]), restarts=3)[0, 0]
    assert labels.min() >= 0 and labels.max() < k
    assert torch.isfinite(labels.float()).all()
    if copies == 1:
        assert len(labels.unique()) == k


def test_separated_blobs_are_found() -> None:
    points = torch.cat([torch.randn(20, 3) * 0.01 + centre for centre in (0.0, 5.0, 10.0)])
    labels = kmeans(points[None], [3], seeds=torch.tensor([0]))[0, 0]
    assert all(len(labels[i * 20 : (i + 1) * 20].unique()) == 1 for i in range(3))
    assert len(labels.unique()) == 3


def test_k_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and the number of points 4, but got \\[5\\]"):
        kmeans(torch.rand(1, 4, 2), [5], seeds=torch.tensor([0]))
