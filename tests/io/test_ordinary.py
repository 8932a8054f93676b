"""Ordinary files of bounded size are read, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from concept_conductor.errors import ConductorError
from concept_conductor.io.ordinary import is_ordinary, read_bounded


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bounded(tmp_path / "a", 5) == read_bounded(tmp_path / "link", 5) == b"12345"
    with pytest.raises(ConductorError, match="a': expected at most 4 bytes, but it has more"):
        read_bounded(tmp_path / "a", 4)


@pytest.mark.parametrize("name", ["none", "a" * 300, "a/" * 3000, "nul\0"])
def test_files_that_are_not_there(tmp_path: Path, name: str) -> None:
    assert not is_ordinary(tmp_path / name)
    with pytest.raises(ConductorError, match="there is no file"):
        read_bounded(tmp_path / name, 5)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_pipes_devices_and_folders_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "zero"):
        assert not is_ordinary(path)
        with pytest.raises(ConductorError, match=f"'{path}' is no ordinary file"):
            read_bounded(path, 5)


@pytest.mark.skipif(not Path("/proc/version").exists(), reason="there is no /proc")
def test_the_kernels_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/version")
    for path in (Path("/proc/version"), tmp_path / "link"):
        with pytest.raises(ConductorError, match="is no ordinary file"):
            read_bounded(path, 1000)
