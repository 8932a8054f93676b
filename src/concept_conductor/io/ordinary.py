"""Ordinary files of bounded size: what small files of people and strangers are read from, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from concept_conductor.errors import ConductorError

KERNEL = ("/proc", "/sys")
"""Where Linux shows itself as files, which call themselves ordinary; /proc/kmsg waits for its next line."""


def is_ordinary(path: str | Path) -> bool:
    """Return whether ``path`` is an ordinary file; False for devices, pipes, folders, and names that no file can have.

    Raises:
        ConductorError: a folder on the way there may not be looked into.
    """
    path = Path(path)
    try:
        return path.is_file() and not any(path.resolve().is_relative_to(root) for root in KERNEL)
    except PermissionError as error:
        raise ConductorError(f"'{path}' may not be looked at; change the rights of the folders around it") from error
    except (OSError, ValueError):  # a name that is too long, or holds what no name may
        return False


def read_bounded(path: str | Path, limit: int) -> bytes:
    """Read an ordinary file that shall be small: a configuration, a recipe.

    Args:
        path: of the file.
        limit: the most bytes that it may have.

    Raises:
        ConductorError: there is none, it is a device, a pipe or a folder, has more bytes, or may not be read.
    """
    path = Path(path)
    if not is_ordinary(path):
        if os.path.exists(path):
            raise ConductorError(f"'{path}' is no ordinary file; expected one, not a folder, device or pipe")
        raise ConductorError(f"there is no file '{path}'; check the path")
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ConductorError(f"'{path}' cannot be read ({error.strerror}); check its rights") from error
    if len(content) > limit:
        raise ConductorError(f"'{path}': expected at most {limit:,} bytes, but it has more")
    return content
