"""The command `conductor`. Heavy modules are imported only when a command runs, so that help is instant."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from concept_conductor._version import __version__
from concept_conductor.cli.terminal import printable_output

DEBUG, HELP = "--debug", "--help"
NEEDS_LESS = (
    "set 'paths_per_forward: 1' in the recipe, make the image smaller, or ask conductor doctor RECIPE.yaml which "
    "settings make it fit"
)


class Entry(NamedTuple):
    """Where a command lives: a function, or a Typer app with commands of its own."""

    module: str
    name: str
    help: str


COMMANDS = {
    "generate": Entry("generate", "generate", "Make the images of a recipe."),
    "replay": Entry("replay", "replay", "Make an image again from the recipe inside it."),
    "doctor": Entry("doctor", "doctor", "Say what a recipe needs before it runs, and what is wrong with it."),
    "score": Entry("score", "score", "Measure how well images show their concepts and fit their prompt."),
    "evaluate": Entry("evaluate", "evaluate", "Make a benchmark's images by several methods, and compare them."),
    "study": Entry("study", "study", "Make a user study of a benchmark's images, or its table."),
    "train": Entry("train", "train", "Learn a concept from a few images."),
    "layout": Entry("layout", "app", "Look at layouts, and make collages."),
    "concept": Entry("concept", "app", "Look into concept files and convert them."),
    "mini": Entry("mini", "app", "Train the embedded model, and measure it."),
}


class LazyGroup(TyperGroup):
    """Lists every command, imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in with the command's help text."""
        if cmd_name not in COMMANDS:
            return None
        stand_in = typer.Typer(help=COMMANDS[cmd_name].help)
        stand_in.command(cmd_name, help=COMMANDS[cmd_name].help)(lambda: None)
        return typer.main.get_command(stand_in)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command itself."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Import a command."""
    entry = COMMANDS[name]
    found = getattr(import_module(f"{__name__}.{entry.module}"), entry.name)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(name)(function)
    command = typer.main.get_command(found)
    command.name = name
    return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=False)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"concept-conductor {__version__}")
        raise typer.Exit


@app.callback()
def conductor(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Show the traceback of an error; may stand anywhere.")] = False,
) -> None:
    """Concept Conductor: several personalized concepts in one image."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit status.

    0: all that was asked for was made. 1: it was not, and one sentence on stderr says why. 2: wrong usage.
    130: interrupted.
    """
    # before torch is loaded: threads that spin at barriers make a small model crawl where another program runs too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # hints of transformers that tell a user of this command nothing (torchvision is not needed)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    given = list(sys.argv[1:] if arguments is None else arguments)
    asks_for_help = not given or not {HELP, "--version"}.isdisjoint(given[: (*given, "--").index("--")])
    with nullcontext() if asks_for_help else printable_output():  # help is all ours, and may have colours
        sys.exit(_run(given, [] if asks_for_help else [check_surroundings]))


def _run(given: list[str], checks: Sequence[Callable[[Sequence[str]], None]]) -> int:
    """Run a command after some checks of its arguments, and return its exit status."""
    debug = DEBUG in given
    command = typer.main.get_command(app)
    try:
        for check in checks:
            check(given)
        result = command.main([word for word in given if word != DEBUG], prog_name="conductor", standalone_mode=False)
    except KeyboardInterrupt:
        return _failed("interrupted", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        if hasattr(error, "exit_code") and hasattr(error, "show"):  # wrong usage, which click explains
            error.show()
            return int(error.exit_code)
        if type(error).__name__ == "Abort":  # click's word for Ctrl-C
            return _failed("interrupted", 130)
        return _failed(explanation(error), 1)
    return result if isinstance(result, int) else 0


def check_surroundings(given: Sequence[str]) -> None:
    """Look whether the working folder is there and every name is text, before anything long begins.

    Raises:
        ConductorError: it is not.
    """
    from concept_conductor.io.files import check_place, check_utf8

    check_place(Path())
    for word in given:
        check_utf8("the argument", word)


def hide_loading_bars() -> None:
    """Switch off what diffusers and transformers show while loading: bars for each part, advice to programmers.

    Call it before anything imports diffusers, whose imports give advice already.
    """
    warnings.filterwarnings("ignore", module=r"(diffusers|transformers|huggingface_hub)\.")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    from huggingface_hub.utils import logging as hub_logging

    hub_logging.set_verbosity_error()  # what becomes of its retries is said once, in the error
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.disable_progress_bar()


def explanation(error: Exception) -> str:
    """Return one sentence (or one for each problem) for the person at the terminal."""
    from concept_conductor.errors import BusyError, ConductorError

    text = " ".join(str(error).split())
    if isinstance(error, ConductorError):
        return str(error)
    if isinstance(error, BusyError):
        return text
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU ran out of memory; {NEEDS_LESS}"
    if isinstance(error, MemoryError):
        return f"the machine ran out of memory; {NEEDS_LESS}"
    if type(error).__name__ == "ValidationError":
        return f"a setting does not fit: {text}"
    if isinstance(error, FileNotFoundError):
        return f"there is no file '{error.filename}'" if error.filename else text
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f": '{error.filename}' could not be written" if error.filename else ""
        return f"the disk is full{place}; free some space or choose another folder"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"the name '{str(error.filename)[:40]}...' is longer than files' names may be; check it"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: '{error.filename}'" if error.filename else error.strerror
    if isinstance(error, OSError | ImportError):
        return text
    return f"unexpected {type(error).__name__}: {text}; with {DEBUG} it says where, please report it"


def _failed(message: str, status: int) -> int:
    print(message, file=sys.stderr, flush=True)
    return status
