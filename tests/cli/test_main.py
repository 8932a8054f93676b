"""The command itself: fast help, exit statuses, one sentence on stderr."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from concept_conductor import ConductorError, __version__
from concept_conductor.cli import COMMANDS, explanation, load_command


def run(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    code = "import sys; from concept_conductor.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=folder, check=False)


def test_help_does_not_wait_for_torch() -> None:
    result = run("--help")
    assert result.returncode == 0
    assert result.stdout.rstrip().endswith("False")
    assert all(name in result.stdout for name in COMMANDS)


def test_a_bad_recipe_fails_in_one_sentence_without_loading_anything(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("prompt: x\nstepps: 3\n")
    result = run("generate", "bad.yaml", folder=tmp_path)
    assert result.returncode == 1
    assert result.stderr == "bad.yaml, line 2: 'stepps' is not known; did you mean 'steps'?\n"
    assert result.stdout == "False\n"
    assert [file.name for file in tmp_path.iterdir()] == ["bad.yaml"]


def test_debug_shows_the_traceback_wherever_it_stands(conductor) -> None:
    for words in (("--debug", "generate", "none.yaml"), ("generate", "none.yaml", "--debug")):
        outcome = conductor(*words)
        assert outcome.status == 1
        assert "Traceback" in outcome.err
        assert outcome.err.endswith("there is no file 'none.yaml'; check the path\n")
    assert "Traceback" not in conductor("generate", "none.yaml").err


def test_version(conductor) -> None:
    assert conductor("--version").out == f"concept-conductor {__version__}\n"


@pytest.mark.parametrize("words", [("paint",), ("generate",), ("generate", "a.yaml", "--colour")])
def test_wrong_usage(conductor, words: tuple[str, ...]) -> None:
    assert conductor(*words).status == 2


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_can_be_loaded_and_explains_itself(conductor, name: str) -> None:
    assert load_command(name).name == name
    outcome = conductor(name, "--help")
    assert outcome.status == 0
    assert name in outcome.out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConductorError("a mask is empty"), "a mask is empty"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "paths_per_forward: 1"),
        (MemoryError(), "paths_per_forward: 1"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full; free some space"),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), "the disk is full: 'a.bin' could not be written"),
        (FileNotFoundError(2, "No such file", "a.png"), "there is no file 'a.png'"),
        (PermissionError(13, "Permission denied", "out"), "Permission denied: 'out'"),
        (ImportError("no module named ray"), "no module named ray"),
        (RuntimeError("two\nlines"), "unexpected RuntimeError: two lines; with --debug"),
    ],
)
def test_errors_become_one_sentence(error: Exception, said: str) -> None:
    assert said in explanation(error)
    assert len(explanation(error).splitlines()) == 1
    assert "--out" not in explanation(error)  # which not every command has


@pytest.mark.skipif(os.name == "nt", reason="names and folders as POSIX has them")
def test_names_that_are_no_text_are_told_at_once(conductor, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = conductor("generate", "caf\udce9/r.yaml")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith(r"the argument 'caf\xe9/r.yaml' is not UTF-8, so that no image could say")
    os.mkdir(b"caf\xe9")
    monkeypatch.chdir(os.fsdecode(b"caf\xe9"))
    outcome = conductor("generate", "r.yaml")
    assert outcome.status == 1 and r"/caf\xe9' is not UTF-8" in outcome.err and len(outcome.err.splitlines()) == 1
    assert conductor("generate", "--help").status == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows removes no folder that is in use")
def test_a_working_folder_that_is_gone_is_one_sentence(conductor, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir("gone")
    before = os.getcwd()
    os.chdir("gone")
    os.rmdir(Path(before) / "gone")
    try:
        for words in (("generate", "r.yaml"), ("train", "c.yaml"), ("concept", "inspect", "x"), ("score", "a.png")):
            outcome = conductor(*words)
            assert outcome.status == 1
            assert outcome.err == "the working folder is gone; change to one that is there and run it again\n"
        assert conductor("--version").status == 0
    finally:
        os.chdir(before)


def test_what_a_stranger_wrote_does_not_reach_the_terminal(conductor) -> None:
    Path("r.yaml").write_text('prompt: x\n"\\e]0;owned\\a\\e[2J\u202e": 1\n')
    for words in (("generate", "r.yaml"), ("generate", "x\x1b[2J.yaml"), ("paint\x1b[2J",), ("generate", "--x\x1b[2J")):
        outcome = conductor(*words)
        assert outcome.status in (1, 2)
        assert not set(outcome.err + outcome.out) & set("\x1b\x07\u202e"), outcome.err
