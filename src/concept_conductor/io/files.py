"""Files that appear whole or not at all, and hashes of what was read."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import platformdirs

from concept_conductor.errors import ConductorError
from concept_conductor.io.ordinary import is_ordinary
from concept_conductor.io.temporary import LOCKS, clean_up, hold, temporary_name

if TYPE_CHECKING:
    from torch import Tensor

CHECKPOINTS = (".safetensors", ".ckpt")
"""How checkpoints in one file end."""

FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST_NAME = 255
"""Bytes that a file's name may have."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing; it takes its place only when the block ends well.

    Folders above it are made. Where the block fails, an earlier file of that name stays as it was. Each writer has a
    temporary file of its own, whatever else writes to ``path`` at the same time; those of killed writers are removed.

    Raises:
        ConductorError: the disk is full, or ``path`` cannot be a file.
        OSError: the file cannot be written for another reason.
    """
    path = Path(path)
    _check_name(path)
    with full_disk_told(path):
        make_folder(path.parent)
        clean_up(path.parent)
        raw, temporary = _create(path)
    file = io.BufferedWriter(raw)
    try:
        with full_disk_told(path):
            yield file
            if not file.closed:
                file.flush()
            if not LOCKS:  # Windows replaces nothing by an open file
                file.close()
            os.replace(temporary, path)
    except Exception as error:
        if raw.full is not None and not isinstance(error, ConductorError):
            raise _disk_full(path) from raw.full  # whatever the library that wrote made of it
        raise
    finally:
        with suppress(OSError, ValueError):
            file.close()
        with suppress(OSError):
            temporary.unlink()


class _File(io.FileIO):
    """Remembers that the disk was full: torch and others then raise words of their own."""

    full: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in FULL:
                self.full = error
            raise


def _create(path: Path) -> tuple[_File, Path]:
    """Make a temporary file for ``path`` and lock it."""
    while True:
        temporary = temporary_name(path)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        file = _File(os.open(temporary, flags, 0o666), "wb")
        if hold(file.fileno(), temporary):
            return file, temporary
        file.close()


def check_output(path: Path) -> None:
    """Look whether a file can be written to ``path``, without writing anything that stays.

    Raises:
        ConductorError: it cannot.
    """
    _check_name(path)
    there = path.parent
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        raise _not_a_folder(path.parent)
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConductorError(f"nothing can be written to '{there}', where '{path}' should go; choose another place")


def _check_name(path: Path) -> None:
    """Raise ConductorError where ``path`` cannot name a file."""
    if long := [name for name in path.parts if len(os.fsencode(name)) > LONGEST_NAME]:
        raise ConductorError(
            f"the name '{long[0][:40]}...' has more than the {LONGEST_NAME} bytes that a file's may have; shorten it"
        )
    if os.path.isdir(path):
        raise ConductorError(f"'{path}' is a folder; expected a file, choose another name")


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises:
        ConductorError: one of them is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise _not_a_folder(folder) from error


def _not_a_folder(folder: Path) -> ConductorError:
    return ConductorError(f"'{folder}' is a file, or lies in one; expected a folder, choose another")


@contextmanager
def full_disk_told(path: str | Path) -> Iterator[None]:
    """Say in one sentence that there was no room for ``path``, which the block writes.

    Raises:
        ConductorError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _disk_full(path) from error
        raise


def _disk_full(path: str | Path) -> ConductorError:
    return ConductorError(f"the disk is full: '{path}' could not be written; free some space or choose another folder")


def check_place(folder: Path) -> None:
    """Look whether images can say where ``folder``, from the working folder, lies.

    Raises:
        ConductorError: the working folder is gone, or a name is not UTF-8.
    """
    try:
        check_utf8("the folder", os.path.abspath(folder))
    except FileNotFoundError as error:
        raise ConductorError("the working folder is gone; change to one that is there and run it again") from error


def check_utf8(what: str, name: str) -> None:
    """Raise ConductorError where the system's ``name`` of ``what`` is not UTF-8, as in some old archives."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        raise ConductorError(
            f"{what} '{shown}' is not UTF-8, so that no image could say where its recipe lies; rename it"
        ) from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of an ordinary file.

    Raises:
        ConductorError: ``path`` is none (a device or pipe could be read for ever, as could some of the kernel's own).
    """
    digest = sha256()
    if not is_ordinary(path):
        raise ConductorError(f"'{path}' is no ordinary file")
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def safe_name(text: str) -> str:
    """Return ``text`` as a part of a file's name, at most 160 of the 255 bytes that those may have."""
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in text)[:60]
    return safe.encode()[:160].decode(errors="ignore")


def default_cache_folder() -> Path:
    """Return the user's cache folder, or ``$CONCEPT_CONDUCTOR_CACHE``."""
    root = os.environ.get("CONCEPT_CONDUCTOR_CACHE") or platformdirs.user_cache_dir("concept-conductor")
    return Path(root) / "inversion"


def content_hash(tensors: dict[str, Tensor]) -> str:
    """Return a hash over names and bytes."""
    import torch  # takes a second, which who only writes a file need not wait

    digest = sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
