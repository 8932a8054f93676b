"""Files that appear whole or not at all, and hashes of what was read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import platformdirs
import torch
from torch import Tensor

from concept_conductor.errors import ConductorError

CHECKPOINTS = (".safetensors", ".ckpt")
"""How checkpoints in one file end."""

KERNEL = ("/proc", "/sys")
"""Where Linux shows itself as files, which call themselves ordinary; /proc/kmsg waits for its next line."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing; it takes its place only when the block ends well.

    Folders above it are made. Where the block fails, an earlier file of that name stays as it was.

    Raises:
        ConductorError: the disk is full, or what should be a folder is a file.
        OSError: the file cannot be written for another reason.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with full_disk_told(path):
            _make_folder(path.parent)
            with open(temporary, "wb") as file:
                yield file
            os.replace(temporary, path)
    finally:
        with suppress(NotADirectoryError):  # which has been told
            temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConductorError(f"'{folder}' is a file, or lies in one; expected a folder, choose another") from error


@contextmanager
def full_disk_told(path: str | Path) -> Iterator[None]:
    """Say in one sentence that there was no room for ``path``, which the block writes.

    Raises:
        ConductorError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConductorError(
                f"the disk is full: '{path}' could not be written; free some space or choose another folder"
            ) from error
        raise


def sha256_of(path: Path) -> str:
    """SHA-256 of an ordinary file.

    Raises:
        ConductorError: ``path`` is none (a device or pipe could be read for ever, as could some of the kernel's own).
    """
    digest = sha256()
    if not path.is_file() or any(path.resolve().is_relative_to(root) for root in KERNEL):
        raise ConductorError(f"'{path}' is no ordinary file")
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def default_cache_folder() -> Path:
    """The user's cache folder, or ``$CONCEPT_CONDUCTOR_CACHE``."""
    root = os.environ.get("CONCEPT_CONDUCTOR_CACHE") or platformdirs.user_cache_dir("concept-conductor")
    return Path(root) / "inversion"


def content_hash(tensors: dict[str, Tensor]) -> str:
    """A hash over names and bytes."""
    digest = sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
