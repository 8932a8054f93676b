"""One at a time in a folder: several processes or threads that bring the same file there up to date."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WAIT, LONGEST = 0.05, 60.0
"""Seconds between two tries, and in all, where waiting is not left to the system."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep the block from all others that hold this folder's lock; the system takes it from whoever dies.

    Nothing is left in the folder. Where its file system has no locks, as some shared ones, the block just runs.
    """
    handle = _acquire(folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


if sys.platform == "win32":

    def _acquire(folder: Path) -> int | None:
        """Make a file that nobody else can make, and that goes when it is closed."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TEMPORARY
        start = time.monotonic()
        while time.monotonic() - start < LONGEST:
            with suppress(FileExistsError, PermissionError):  # the second while the other's is going
                return os.open(folder / ".lock", flags)
            time.sleep(WAIT)
        return None

else:
    import fcntl

    def _acquire(folder: Path) -> int | None:
        """Lock the folder itself."""
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            os.close(handle)
            return None
        return handle
