"""What people and strangers wrote is shown on the terminal, never obeyed: no escape, no markup, no forged line."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from concept_conductor.cli import terminal
from concept_conductor.cli.terminal import PrintableStream, console, printable_output, shown_progress, words

EVIL = "\x1b[2J\x1b]0;owned\x07\x1b[32mall is well\x1b[0m \u202egnp \x9b2J"


def is_plain(text: str) -> bool:
    return not set(text) & set("\x1b\x07\x9b\u202e\r\b")


def test_what_is_printed_logged_and_warned_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_output():
        print(EVIL)
        print(EVIL, file=sys.stderr)
        sys.stderr.writelines([EVIL, "\n"])
        logging.lastResort.handle(logging.LogRecord("x", logging.WARNING, "x", 1, EVIL, None, None))
        assert not sys.stdout.isatty() and not hasattr(sys.stdout, "buffer")
    out, err = capsys.readouterr()
    assert is_plain(out) and is_plain(err)
    assert out == "\\x1b[2J\\x1b]0;owned\\x07\\x1b[32mall is well\\x1b[0m \\u202egnp \\u009b2J\n"
    assert err.count("owned") == 3
    print(EVIL)
    assert not is_plain(capsys.readouterr().out)  # afterwards all is as it was


def test_an_old_terminals_letters() -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="latin-1", newline="") as stream:
        PrintableStream(stream).write("déjà ↓ \udce9\n")
        stream.flush()
        assert raw.getvalue() == b"d\xe9j\xe0 \\u2193 \\udce9\n"


@pytest.mark.parametrize("on_a_terminal", [False, True])
def test_richs_tables_and_bars_take_text_for_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, on_a_terminal: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with printable_output():
        shown = console(force_terminal=on_a_terminal, color_system=None)
        table = Table("name [b]", title="[/b]")
        table.add_row(f"{EVIL} [/b] :dog: [final]")
        shown.print(table, Panel(Text(EVIL)), "runs [final]/c.png", EVIL)
    out = capsys.readouterr().out
    assert is_plain(out)
    assert "[/b] :dog: [final]" in out and "runs [final]/c.png" in out and "name [b]" in out
    with shown_progress(words("description"), words("fields[note]")) as bar:
        task = bar.add_task("my [/b] method", total=2, note="")
        bar.update(task, description=f"{EVIL} [final]", note=":dog:")
        bar.console.print("samples [final]")
        print("beside the bar", EVIL)
    out, err = capsys.readouterr()
    assert is_plain(out) and "[final]" in err and ":dog:" in err
    assert "\x1b]0;owned" not in err and "\x1b[2J" not in err and "\x07" not in err


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals")
def test_on_a_real_terminal_colours_are_ours_alone(tmp_path: Path) -> None:
    import pty

    code = f"""
from concept_conductor.cli.terminal import console, printable_output, shown_progress, words
from rich.text import Text
evil = {EVIL!r}
with printable_output():
    console().print(Text("ours", style="red"), evil)
    with shown_progress(words("description")) as bar:
        bar.add_task(evil, total=1)
        print(evil)
"""
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=side, stderr=side, stdin=subprocess.DEVNULL, env=environment, cwd=tmp_path
    )
    os.close(side)
    out = b""
    try:
        while chunk := os.read(main, 65536):
            out += chunk
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(main)
    assert process.wait() == 0, out
    assert b"\x1b[31mours" in out
    for sequence in (b"\x1b]0;", b"\x1b[2J", b"\x1b[32m", b"\x07", "\u202e".encode()):
        assert sequence not in out
    assert out.count(b"\\x1b]0;owned") >= 3


def test_nothing_else_writes_to_the_terminal() -> None:
    """Commands print (which passes the stream above) or use this module's consoles, and no other."""
    source = Path(terminal.__file__).parent
    for file in sorted(source.glob("*.py")):
        text = file.read_text()
        if file.name != "terminal.py":
            assert "Console(" not in text and "TextColumn(" not in text and " Progress(" not in text, file
