"""Where text leaves for a terminal: people's and strangers' words are shown there, never obeyed.

Everything printed, logged or warned passes :func:`printable_output`; what rich draws, with colours and moving lines of
its own, passes a console from here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Progress, ProgressColumn, TextColumn
from rich.segment import Segment
from rich.text import Text

from concept_conductor.io.printable import printable


class PrintableStream:
    """A text stream that shows what a terminal would obey, and so passes for none: nobody writes colours to it.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write ``text`` as :func:`printable` shows it, in the letters that the stream has."""
        shown, encoding = printable(text), getattr(self.stream, "encoding", None) or "utf-8"
        try:
            self.stream.write(shown)
        except UnicodeEncodeError:  # an old terminal
            self.stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def isatty(self) -> bool:
        """Return False."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # bytes would pass by
            raise AttributeError(name)
        return getattr(self.stream, name)


@contextmanager
def printable_output() -> Iterator[None]:
    """While the block lasts, what is printed to stdout and stderr is shown and not obeyed."""
    before = sys.stdout, sys.stderr
    streams: Any = (PrintableStream(before[0]), PrintableStream(before[1]))
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class PrintableConsole(Console):
    """rich's console, in which text is text: neither markup nor emoji codes, nor escapes of its own."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Make text of a string, as wide as it will be shown."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, and show what a terminal would obey."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


def console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console that writes to stdout or stderr with colours where that is a terminal.

    Args:
        stderr: write there.
        options: rich's.
    """
    stream: Any = sys.stderr if stderr else sys.stdout
    while isinstance(stream, PrintableStream):
        stream = stream.stream
    return PrintableConsole(file=stream, markup=False, emoji=False, highlight=False, **options)


def words(field: str) -> TextColumn:
    """Return a column of a progress bar with a field of its task: ``description``, or ``fields[name]``."""
    return TextColumn(f"{{task.{field}}}", markup=False)


@contextmanager
def shown_progress(*columns: ProgressColumn, quiet: bool = False, **options: Any) -> Iterator[Progress]:
    """Show a progress bar on stderr while the block lasts.

    Args:
        columns: of the bar; texts by :func:`words`.
        quiet: show nothing.
        options: rich's.
    """
    bar = Progress(*columns, console=console(stderr=True, quiet=quiet), **options)
    with bar, printable_output():  # inside, for rich reads colours from what is printed beside its bar
        yield bar
