"""The folder of a trace: it appears whole or not at all, and takes no other folder's place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from concept_conductor.errors import ConductorError

#: The file that tells a trace's folder, and what it begins with.
RECORD, BEGINNING = "trace.json", b'{"concept_conductor_trace": '


def folders_of(folder: Path, seeds: Sequence[int]) -> list[Path]:
    """Where the trace of each seed goes: ``folder`` itself for one, a folder in it for each of several."""
    return [folder] if len(seeds) == 1 else [folder / f"seed-{seed:04d}" for seed in seeds]


def check_folder(folder: Path) -> None:
    """Look whether a trace may be written to ``folder``: nothing is there, or it is empty, or an earlier trace.

    Raises:
        ConductorError: something else is there, or nothing can be written there.
    """
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise ConductorError(f"'{there}' is a file; expected a folder for the trace, choose another")
    if not os.access(folder.parent if there == folder else there, os.W_OK | os.X_OK):
        raise ConductorError(f"nothing can be written to '{there}'; choose another folder for the trace")
    if there != folder:
        return
    try:
        if any(folder.iterdir()) and not is_trace(folder):
            raise ConductorError(
                f"the folder '{folder}' holds other files; a trace takes a folder of its own, choose a new one"
            )
    except OSError as error:
        raise ConductorError(f"the folder '{folder}' cannot be read ({error.strerror}); choose another") from error


def check_own(folder: Path, results: Path) -> None:
    """Look whether a trace's folder is neither the results' nor around it: the next trace would take them away.

    Raises:
        ConductorError: it is.
    """
    own, other = folder.resolve(), results.resolve()
    if own == other or own in other.parents:
        raise ConductorError(
            f"the trace's folder '{folder}' would hold the results too, which go to '{results}'; a trace takes a "
            "folder of its own, such as one in there"
        )


def is_trace(folder: Path) -> bool:
    """Whether an earlier trace lies there."""
    record = folder / RECORD
    if not record.is_file():
        return False
    with open(record, "rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


@contextmanager
def trace_folder(folder: Path) -> Iterator[Path]:
    """Where to write a trace's files: they come to lie in ``folder`` when the block ends well, and else are removed.

    Raises:
        ConductorError: ``folder`` is taken by something else, or cannot be written.
    """
    check_folder(folder)
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise ConductorError(
            f"the trace cannot be written to '{folder}' ({error.strerror}); choose another folder"
        ) from error
    try:
        yield unfinished
        check_folder(folder)  # it may have come while the run went on
        earlier = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        if folder.exists():
            folder.rename(earlier)
        unfinished.rename(folder)
        shutil.rmtree(earlier, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
