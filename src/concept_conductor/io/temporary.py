"""Names of files and folders that are being written, and what killed writers left of them.

A writer holds a lock on what it writes. The system takes the lock from a process that dies, in whatever container it
ran: what nobody holds is dead, and the next writer in that folder removes it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed
    fcntl = None  # type: ignore[assignment]

UNFINISHED, REPLACED = ".part", ".old"
MARK = ".conductor-"
PATTERN = re.compile(rf"\.(.*){re.escape(MARK)}[0-9a-f]{{16}}({UNFINISHED}|{REPLACED})", re.DOTALL)
MOST_BYTES = 200
"""Of a target's name in a temporary one, for which file systems have 255 in all."""
OLD_ENOUGH = 24 * 3600.0
"""Seconds after which what nobody writes to counts as dead where there are no locks."""
LOCKS = fcntl is not None


def temporary_name(target: Path, ending: str = UNFINISHED) -> Path:
    """Return a name beside ``target`` that no other writer has."""
    return target.with_name(f".{_shortened(target.name)}{MARK}{secrets.token_hex(8)}{ending}")


def is_temporary(name: str) -> bool:
    """Return whether a file or folder of that name is being written, or was when its writer died."""
    return PATTERN.fullmatch(name) is not None


def hold(descriptor: int, path: Path) -> bool:
    """Lock what is open as ``descriptor`` and has just been made at ``path``.

    Returns:
        False where somebody who cleans up was quicker, so that another must be made. Where there are no locks nothing
        is locked, and nothing is cleaned up early.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold what a writer left at ``path`` while the block lasts; False where that writer may be alive."""
    descriptor, dead = None, False
    with suppress(OSError):  # it is gone, somebody has it, or there are no locks here
        if not LOCKS:
            dead = time.time() - os.lstat(path).st_mtime > OLD_ENOUGH
        else:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = True
    try:
        yield dead
    finally:
        if descriptor is not None:
            os.close(descriptor)


def left_behind(folder: Path, ending: str, target: str | None = None) -> list[Path]:
    """Return what lies unfinished or replaced in ``folder``, whether its writer is alive or not.

    Args:
        folder: where to look.
        ending: ``.part`` or ``.old``.
        target: the name that it was to have; None for any.
    """
    wanted = None if target is None else _shortened(target)
    with suppress(OSError), os.scandir(folder) as entries:
        return [
            Path(entry.path)
            for entry in entries
            if entry.name.endswith(ending)  # first, for it is quick and folders may be large
            and (match := PATTERN.fullmatch(entry.name))
            and wanted in (None, match[1])
            and not entry.is_symlink()
        ]
    return []  # a folder that cannot be listed may still be written to


def clean_up(folder: Path) -> None:
    """Remove what killed writers left unfinished in ``folder``."""
    for path in left_behind(folder, UNFINISHED):
        with claimed(path) as dead:
            if dead:
                remove(path)


def remove(path: Path) -> None:
    """Remove a file or folder, as far as that is possible."""
    with suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _shortened(name: str) -> str:
    while len(os.fsencode(name)) > MOST_BYTES:
        name = name[:-1]
    return name
