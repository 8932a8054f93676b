"""Bytes are counted while they are alive, once."""

from __future__ import annotations

import torch

from concept_conductor.memory.tracker import MemoryTracker


def test_what_is_alive_is_counted() -> None:
    with MemoryTracker() as tally:
        a = torch.zeros(1000)
        b = a.view(10, 100)[0]  # a view is nothing new
        c = a + 1
        assert tally.live == 8000
        a += c
        del c
        assert tally.live == 4000
        del a, b
        assert tally.live == 0
    assert tally.peak == 8000


def test_what_a_gradient_keeps_is_counted() -> None:
    x = torch.ones(1000, requires_grad=True)
    with MemoryTracker() as tally:
        y = x.exp().exp()  # each keeps its result
        assert tally.live == 8000
        y.sum().backward()
        del y
    assert tally.peak > 8000 and tally.live == 4000  # the gradient
