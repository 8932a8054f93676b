"""One run at a time in a model's networks, whose weights a run changes while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakSet

from torch import nn

from concept_conductor.errors import BusyError

_lock = threading.Lock()
_busy: WeakSet[nn.Module] = WeakSet()


@contextmanager
def exclusive(*networks: nn.Module) -> Iterator[None]:
    """Keep other runs out of ``networks`` inside this context.

    Raises:
        BusyError: another run, of any thread, is in one of them.
    """
    with _lock:
        if any(network in _busy for network in networks):
            raise BusyError("this model is already sampling; finish or close that run first, or load a second pipeline")
        for network in networks:
            _busy.add(network)
    try:
        yield
    finally:
        with _lock:
            for network in networks:
                _busy.discard(network)
