"""Folders that appear whole or not at all, and replace an earlier one so that one of both is always there."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from concept_conductor.errors import ConductorError
from concept_conductor.io.files import full_disk_told, make_folder
from concept_conductor.io.temporary import (
    LOCKS,
    REPLACED,
    claimed,
    clean_up,
    hold,
    left_behind,
    remove,
    temporary_name,
)

HERE = -100
"""``AT_FDCWD``: paths count from the working folder."""
EXCHANGE = 2
"""``RENAME_EXCHANGE`` of Linux, ``RENAME_SWAP`` of macOS."""


@contextmanager
def atomic_folder(folder: Path, check: Callable[[Path], None] = lambda folder: None) -> Iterator[Path]:
    """Make a folder to write to; it takes the place of ``folder`` when the block ends well, and else is removed.

    Args:
        folder: what it will be; a folder of that name is replaced as a whole.
        check: raises where ``folder`` must not be replaced; called before the block and after it.

    Raises:
        ConductorError: the disk is full, or nothing can be written there.
    """
    folder = Path(os.path.realpath(folder))
    with suppress(OSError):
        put_back(folder)
    check(folder)
    try:
        with full_disk_told(folder):
            make_folder(folder.parent)
            clean_up(folder.parent)
            unfinished, descriptor = _create(folder)
    except OSError as error:
        raise ConductorError(
            f"nothing can be written to '{folder}' ({error.strerror}); choose another folder"
        ) from error
    try:
        with full_disk_told(folder):
            yield unfinished
        check(folder)  # something may have come while the block ran
        try:
            replace_folder(unfinished, folder)
        except OSError as error:
            raise ConductorError(
                f"'{folder}' could not be replaced ({error.strerror}); choose another folder"
            ) from error
    finally:
        remove(unfinished)  # after an exchange it is the earlier one
        if descriptor is not None:
            os.close(descriptor)


def put_back(folder: Path) -> None:
    """Put a folder back that a killed process had moved aside to replace it."""
    for earlier in left_behind(folder.parent, REPLACED, folder.name):
        with claimed(earlier) as dead:
            if dead and os.path.lexists(folder):
                remove(earlier)
            elif dead:
                os.rename(earlier, folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Put ``new`` in the place of ``folder``, in one step where the system can.

    Afterwards an earlier folder is gone, or lies where ``new`` was.
    """
    with suppress(OSError):  # there is none, or an empty one
        os.rename(new, folder)
        return
    if not os.path.lexists(folder):
        os.rename(new, folder)  # raises what is wrong
    elif not exchange(new, folder):
        earlier = temporary_name(folder, REPLACED)
        descriptor = _opened(folder)
        try:
            if descriptor is not None:
                hold(descriptor, folder)  # nobody puts it back meanwhile
            os.rename(folder, earlier)
            try:
                os.rename(new, folder)
            except OSError:
                os.rename(earlier, folder)
                raise
            remove(earlier)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    try:
        library = ctypes.CDLL(None)
        names = os.fsencode(one), os.fsencode(other)
        if sys.platform == "darwin":
            return bool(library.renamex_np(*names, ctypes.c_uint(EXCHANGE)) == 0)
        return bool(library.renameat2(HERE, names[0], HERE, names[1], ctypes.c_uint(EXCHANGE)) == 0)
    except (AttributeError, OSError, TypeError):  # Windows, or an old C library
        return False


def _create(folder: Path) -> tuple[Path, int | None]:
    """Make an unfinished folder for ``folder`` and lock it."""
    while True:
        unfinished = temporary_name(folder)
        unfinished.mkdir()
        descriptor = _opened(unfinished)
        if descriptor is None or hold(descriptor, unfinished):
            return unfinished, descriptor
        os.close(descriptor)


def _opened(folder: Path) -> int | None:
    """Open a folder to lock it; None on Windows, which has no such thing."""
    return os.open(folder, os.O_RDONLY) if LOCKS else None
