"""Folders that appear whole or not at all: one of both, the earlier or the new one, is always there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from concept_conductor.errors import ConductorError
from concept_conductor.io import folders, temporary
from concept_conductor.io.folders import atomic_folder, exchange
from concept_conductor.io.temporary import REPLACED, temporary_name

pytestmark = pytest.mark.skipif(not temporary.LOCKS, reason="without locks a day must pass")


def write(folder: Path, text: str) -> None:
    with atomic_folder(folder) as unfinished:
        (unfinished / "file").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("can_exchange", [True, False])
def test_an_earlier_folder_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    folder = tmp_path / "folder"
    write(folder, "one")
    (folder / "more").touch()
    write(folder, "two")
    assert names(folder) == ["file"] and (folder / "file").read_text() == "two"
    with pytest.raises(FileNotFoundError), atomic_folder(folder) as unfinished:
        (unfinished / "file").write_text((tmp_path / "none").read_text())
    assert (folder / "file").read_text() == "two"
    assert names(tmp_path) == ["folder"]


def test_two_at_once_are_not_mixed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with atomic_folder(folder) as one:
        (one / "file").write_text("one")
        write(folder, "two")
        assert (folder / "file").read_text() == "two"
    assert (folder / "file").read_text() == "one"
    assert names(tmp_path) == ["folder"]


def test_what_must_not_be_replaced_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    write(folder, "one")

    def never(folder: Path) -> None:
        if folder.exists():
            raise ConductorError("it is taken")

    with pytest.raises(ConductorError, match="it is taken"), atomic_folder(folder, never):
        pass
    assert (folder / "file").read_text() == "one"


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["file"]


KILLED = """
import os, sys
from pathlib import Path
from concept_conductor.io import folders
def dying(call):
    def then_die(*paths):
        call(*paths)
        os.kill(os.getpid(), 9)
    return then_die
if sys.argv[2] == "exchanged":
    folders.exchange = dying(folders.exchange)
else:
    folders.exchange = lambda one, other: setattr(os, "rename", dying(os.rename))
with folders.atomic_folder(Path(sys.argv[1])) as unfinished:
    (unfinished / "file").write_text("new")
"""


@pytest.mark.parametrize(("moment", "left"), [("exchanged", "new"), ("between two renames", "earlier")])
def test_killed_while_it_replaces(tmp_path: Path, moment: str, left: str) -> None:
    folder = tmp_path / "folder"
    write(folder, "earlier")
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder), moment], check=False).returncode == -9
    assert folder.exists() is (moment == "exchanged")  # where nothing can be exchanged there is a moment without either
    assert len(names(tmp_path)) == 2
    seen: list[str] = []
    with atomic_folder(folder, lambda folder: seen.append((folder / "file").read_text())):
        pass
    assert seen == [left, left]  # it is put back before anything is decided
    assert names(tmp_path) == ["folder"]


def test_a_folder_moved_aside_by_a_living_process_is_left_alone(tmp_path: Path) -> None:
    aside = temporary_name(tmp_path / "folder", REPLACED)
    aside.mkdir()
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        assert temporary.hold(descriptor, aside)
        write(tmp_path / "folder", "new")
        assert names(tmp_path) == sorted([aside.name, "folder"])
    finally:
        os.close(descriptor)
    write(tmp_path / "folder", "newer")
    assert names(tmp_path) == ["folder"]


def test_a_folder_that_cannot_be_replaced_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    write(folder, "one")

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(folders, "exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(ConductorError, match=rf"'{folder}' could not be replaced \(Invalid cross-device link\)"):
        write(folder, "two")
    assert (folder / "file").read_text() == "one"
    assert names(tmp_path) == ["folder"]


def test_exchanging_says_whether_it_can(tmp_path: Path) -> None:
    assert exchange(tmp_path / "none", tmp_path / "neither") is False
