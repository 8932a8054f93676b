"""A trace's folder appears whole or not at all, and takes no other folder's place."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from concept_conductor import ConductorError
from concept_conductor.tracing.folder import BEGINNING, RECORD, check_folder, folders_of, trace_folder


def write(folder: Path, content: str | Path) -> None:
    """Write a trace; a path is copied into the folder itself meanwhile, as someone else might do."""
    with trace_folder(folder) as unfinished:
        (unfinished / RECORD).write_bytes(BEGINNING + b"1}")
        if isinstance(content, str):
            (unfinished / "file").write_text(content)
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(content, folder)


def test_an_earlier_trace_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "trace"
    write(folder, "one")
    (folder / "left-over").touch()
    write(folder, "two")
    assert {file.name for file in folder.iterdir()} == {RECORD, "file"}
    assert (folder / "file").read_text() == "two"
    assert [place.name for place in folder.parent.iterdir()] == ["trace"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    write(tmp_path / "trace", "one")
    assert (tmp_path / "trace" / "file").read_text() == "one"


def test_a_failure_leaves_the_earlier_trace_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    write(folder, "one")
    with pytest.raises(FileNotFoundError):
        write(folder, tmp_path / "missing")
    assert (folder / "file").read_text() == "one"
    assert [place.name for place in tmp_path.iterdir()] == ["trace"]


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / RECORD).write_text("{}")
    with pytest.raises(ConductorError, match=r"holds other files; a trace takes a folder of its own"):
        write(tmp_path, "one")
    assert {file.name for file in tmp_path.iterdir()} == {"holiday.jpg", RECORD}


def test_a_folder_that_others_fill_meanwhile_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    holiday = tmp_path / "holiday.jpg"
    holiday.touch()
    with pytest.raises(ConductorError, match="holds other files"):
        write(folder, holiday)
    assert [file.name for file in folder.iterdir()] == ["holiday.jpg"]
    assert {place.name for place in tmp_path.iterdir()} == {"trace", "holiday.jpg"}


@pytest.mark.parametrize("below", ["", "trace", "deep/trace"])
def test_a_file_is_in_the_way(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConductorError, match=r"'.*/file' is a file; expected a folder for the trace"):
        check_folder(tmp_path / "file" / below)


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConductorError, match="nothing can be written to"):
        check_folder(tmp_path / "trace")


def test_a_folder_for_each_of_several_seeds() -> None:
    assert folders_of(Path("trace"), [3]) == [Path("trace")]
    assert folders_of(Path("trace"), [3, 12]) == [Path("trace/seed-0003"), Path("trace/seed-0012")]
