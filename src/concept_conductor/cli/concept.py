"""`conductor concept`: look into concept files, and convert them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from concept_conductor.concepts.conversion import ConceptFormat
from concept_conductor.errors import ConceptFileError

app = typer.Typer(help="Look into concept files, and convert them.", no_args_is_help=True)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A concept file, or a shipped concept such as mini/dog-noto.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a concept file holds and where its tensors go; exit 1 where it cannot be used."""
    from concept_conductor.concepts.inspection import inspect as look

    report = look(file)
    if json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        Console().print(report)
    if report.problem is not None:
        raise typer.Exit(1)


@app.command()
def convert(
    file: Annotated[str, typer.Argument(help="The concept to convert.")],
    out: Annotated[Path, typer.Argument(help="The file to write.")],
    format: Annotated[ConceptFormat | None, typer.Option(help="Its format; by its suffix if not given.")] = None,
) -> None:
    """Write a concept in another format."""
    from concept_conductor.concepts import load_concept

    by_suffix = {kind.suffix: kind for kind in ConceptFormat}
    chosen = format or by_suffix.get(out.suffix)
    if chosen is None:
        raise ConceptFileError(f"the format of {out} is not told by its suffix; give --format ours or mixofshow")
    chosen.save(load_concept(file), out)
    typer.echo(out)
