"""Files that appear whole or not at all, whoever writes, is killed, or finds the disk full."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from concept_conductor.errors import ConductorError
from concept_conductor.io import files, temporary
from concept_conductor.io.files import atomic_write, check_output, check_place, sha256_of
from concept_conductor.io.temporary import UNFINISHED, hold, temporary_name


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def fail_after(call: Callable[[bytes], int], content: bytes) -> None:
    call(content)
    raise ZeroDivisionError


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with atomic_write(target) as file:
        file.write(b"one")
        assert not target.exists()
    assert target.read_bytes() == b"one"
    with pytest.raises(ZeroDivisionError), atomic_write(target) as file:
        fail_after(file.write, b"two")
    assert target.read_bytes() == b"one"
    assert names(target.parent) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="rights as POSIX has them")
def test_it_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "atomic") as file:
        file.write(b"")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_two_writers_at_once_are_not_mixed(tmp_path: Path) -> None:
    target, half, quick = tmp_path / "file", threading.Event(), threading.Event()

    def slow() -> None:
        with atomic_write(target) as file:
            file.write(b"A" * 100_000)
            file.flush()
            half.set()
            quick.wait(10)
            file.write(b"A" * 100_000)

    thread = threading.Thread(target=slow)
    thread.start()
    half.wait(10)
    with atomic_write(target) as file:
        file.write(b"B" * 1000)
    assert target.read_bytes() == b"B" * 1000
    quick.set()
    thread.join()
    assert target.read_bytes() == b"A" * 200_000
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not temporary.LOCKS, reason="without locks a day must pass")
def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    dead, folder, alive = (temporary_name(tmp_path / name) for name in ("file", "trace", "other"))
    dead.write_bytes(b"half")
    folder.mkdir()
    (folder / "page.html").touch()
    (tmp_path / ".file.12.part").touch()  # somebody else's
    (tmp_path / ".file.conductor-link.part").touch()
    link = temporary_name(tmp_path / "link")
    link.symlink_to(tmp_path)
    with open(alive, "wb") as held:
        assert hold(held.fileno(), alive)
        with atomic_write(target) as file:
            file.write(b"whole")
        assert names(tmp_path) == sorted([".file.12.part", ".file.conductor-link.part", alive.name, link.name, "file"])


@pytest.mark.skipif(not temporary.LOCKS, reason="without locks a day must pass")
def test_a_process_killed_in_the_middle_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"earlier")
    code = (
        "import os, sys\nfrom concept_conductor.io.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n    file.write(b'half'); file.flush(); os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(target)], check=False).returncode == -9
    assert target.read_bytes() == b"earlier"
    assert len(names(tmp_path)) == 2
    with atomic_write(tmp_path / "another") as file:
        file.write(b"")
    assert names(tmp_path) == ["another", "file"]


class Full(io.FileIO):
    """A file on a disk with room for 100 bytes."""

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write(b"0" * 200_000),
        lambda file: torch.save({"w": torch.zeros(10_000)}, file),  # which raises words of its own
        lambda file: file.write(b"0" * 200),  # less than the buffer: found out in the end
    ],
)
def test_a_full_disk_is_told_with_the_file_and_the_earlier_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"earlier")
    monkeypatch.setattr(files, "_File", type("File", (files._File, Full), {}))
    with pytest.raises(ConductorError, match=rf"^the disk is full: '{target}' could not be written; free some space"):
        with atomic_write(target) as file:
            write(file)
    assert target.read_bytes() == b"earlier"
    assert names(tmp_path) == ["file"]


def test_an_error_of_the_block_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_write(tmp_path / "file"):
        raise PermissionError(errno.EACCES, "no")


def test_what_can_be_no_file_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path / "folder", "is a folder; expected a file"),
        (tmp_path / "file" / "below", "is a file, or lies in one; expected a folder"),
        (tmp_path / ("n" * 256), "has more than the 255 bytes"),
        (tmp_path / ("é" * 128), "has more than the 255 bytes"),
    ):
        for attempt in (lambda path=path: check_output(path), lambda path=path: atomic_write(path).__enter__()):
            with pytest.raises(ConductorError, match=said):
                attempt()
    check_output(tmp_path / "new" / "deep" / "file")
    with atomic_write(tmp_path / ("n" * 255)) as file:
        file.write(b"")
    assert names(tmp_path) == ["file", "folder", "n" * 255]


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConductorError, match=f"nothing can be written to '{tmp_path}'"):
        check_output(tmp_path / "new" / "file")


def test_where_there_are_no_locks_only_old_files_are_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "LOCKS", False)
    monkeypatch.setattr(temporary, "fcntl", None)
    fresh, old = temporary_name(tmp_path / "a"), temporary_name(tmp_path / "b")
    for file in (fresh, old):
        file.touch()
    os.utime(old, (0, 0))
    with atomic_write(tmp_path / "file") as file:
        file.write(b"")
    assert names(tmp_path) == sorted(["file", fresh.name])
    assert fresh.name.endswith(UNFINISHED)


@pytest.mark.skipif(os.name == "nt", reason="names as POSIX has them")
def test_a_folder_whose_name_is_no_text_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_place(tmp_path)
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ConductorError, match=r"the folder '.*/caf\\xe9' is not UTF-8"):
        check_place(odd)
    odd.mkdir()
    monkeypatch.chdir(odd)
    with pytest.raises(ConductorError, match=r"the folder '.*/caf\\xe9' is not UTF-8"):
        check_place(Path())
    odd.rmdir()
    with pytest.raises(ConductorError, match="the working folder is gone"):
        check_place(Path())


def test_hashes_of_ordinary_files_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    for path in (tmp_path, Path("/dev/null"), tmp_path / ("n" * 300)):
        with pytest.raises(ConductorError, match="no ordinary file"):
            sha256_of(path)
