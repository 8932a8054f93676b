"""`conductor concept`: look into concept files, and convert them."""

from pathlib import Path
from typing import Annotated

import typer

from concept_conductor.cli.terminal import console
from concept_conductor.concepts.formats.convert import BY_SUFFIX, ConceptFormat
from concept_conductor.errors import ConceptFileError
from concept_conductor.io.printable import printable

app = typer.Typer(help="Look into concept files, and convert them.", no_args_is_help=True, add_completion=False)


Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a repository on the hub.")]


@app.command()
def inspect(
    file: Annotated[
        str, typer.Argument(help="A concept's file or folder, a hub id, or a shipped concept such as mini/dog-noto.")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    revision: Revision = None,
) -> None:
    """Show what a concept file holds and where its tensors go; exit with 1 where it cannot be used."""
    from concept_conductor.concepts.inspection import inspect as look

    report = look(file, revision)
    if json:
        typer.echo(printable(report.model_dump_json(indent=2)))
    else:
        console().print(report)
    if report.problem is not None:
        raise typer.Exit(1)


@app.command()
def convert(
    files: Annotated[
        list[str], typer.Argument(help="The concept to convert, or the files that make one: a LoRA and its embedding.")
    ],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    format: Annotated[ConceptFormat | None, typer.Option(help="Its format; by its suffix if not given.")] = None,
    revision: Revision = None,
) -> None:
    """Write a concept in another format."""
    from concept_conductor.concepts.concept import Concept

    chosen = format or BY_SUFFIX.get(out.suffix)
    if chosen is None:
        raise ConceptFileError(f"the suffix of {out} tells no format; give --format {' or '.join(ConceptFormat)}")
    chosen.save(Concept.load(*files, revision=revision), out)
    typer.echo(printable(str(out)))
