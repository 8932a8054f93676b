"""The folder of a trace: it appears whole or not at all, and takes no other folder's place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from concept_conductor.errors import ConductorError
from concept_conductor.io.folders import atomic_folder

#: The file that tells a trace's folder, and what it begins with.
RECORD, BEGINNING = "trace.json", b'{"concept_conductor_trace": '


def folders_of(folder: Path, seeds: Sequence[int]) -> list[Path]:
    """Return where the trace of each seed goes: ``folder`` itself for one, a folder in it for each of several."""
    return [folder] if len(seeds) == 1 else [folder / f"seed-{seed:04d}" for seed in seeds]


def check_folder(folder: Path) -> None:
    """Look whether a trace may be written to ``folder``: nothing is there, or it is empty, or an earlier trace.

    Raises:
        ConductorError: something else is there, or nothing can be written there.
    """
    folder = folder.absolute()
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
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
    """Return whether an earlier trace lies there."""
    record = folder / RECORD
    if not record.is_file():
        return False
    with open(record, "rb") as file:
        return file.read(len(BEGINNING)) == BEGINNING


def trace_folder(folder: Path) -> AbstractContextManager[Path]:
    """Make a folder to write a trace's files to, which becomes ``folder`` when the block ends well.

    Raises:
        ConductorError: ``folder`` is taken by something else, or cannot be written.
    """
    return atomic_folder(folder, check_folder)
