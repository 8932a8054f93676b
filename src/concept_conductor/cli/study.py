"""`conductor study`: the paper's user study as a page, and the table from the answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concept_conductor.cli import hide_loading_bars
from concept_conductor.errors import ConductorError

if TYPE_CHECKING:
    from concept_conductor.evaluation.report.study import Shown


def study(
    folder: Annotated[
        Path, typer.Argument(help="A results folder of conductor evaluate.", metavar="DIR", show_default=False)
    ],
    more: Annotated[list[Path] | None, typer.Argument(hidden=True)] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="Files of answers: print the table.", metavar="FILE.csv ...")
    ] = None,
    images: Annotated[int, typer.Option(help="Images that each person judges, at most.", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="Chooses other images and names.", min=0)] = 0,
    methods: Annotated[
        str | None, typer.Option(help="Names with commas between; all if not given.", metavar="NAME,...")
    ] = None,
) -> None:
    """Make a page on which people judge images blind, or the table from their answers.

    The page (DIR/study) asks of each image how well it fits its text, and how much each concept is like its
    references, from 1 to 5. Whose images they are stands in DIR/study-key.json alone: give that to nobody, and keep it,
    for without it no answer can be read.
    """
    hide_loading_bars()
    from concept_conductor.evaluation.benchmark.results import read_manifest
    from concept_conductor.evaluation.report.study import choose, table, write_study

    manifest = read_manifest(folder)
    if answers:
        print_table(table(folder, [*answers, *(more or ())]), manifest["methods"])
        return
    if more:
        raise ConductorError(f"'{more[0]}' came after the folder; files of answers stand after --answers")
    found = shown(folder, manifest)
    if methods is not None:
        wanted = [name.strip() for name in methods.split(",")]
        for name in wanted:
            if name not in manifest["methods"]:
                known = ", ".join(manifest["methods"])
                raise ConductorError(f"'{folder}' holds no images by a method '{name}'; it has: {known}")
        found = [image for image in found if image.method in wanted]
    chosen = choose(found, images, seed)
    page = write_study(folder, f"Judging {len(chosen)} images", chosen, seed)
    typer.echo(str(page))


def shown(folder: Path, manifest: dict[str, Any]) -> list[Shown]:
    """Return the images of a results folder.

    Raises:
        ConductorError: a reference is missing.
    """
    from concept_conductor.evaluation.report.study import Shown

    references = {name: [folder / file for file in files] for name, files in manifest["references"].items()}
    for name, files in references.items():
        for file in files:
            if not os.path.isfile(file):
                raise ConductorError(f"the reference '{file}' of '{name}' is missing; run conductor evaluate again")
    return [
        Shown(
            entry["method"],
            entry["combination"],
            entry["prompt"],
            entry["seed"],
            entry["text"],
            folder / "images" / f"{entry['key']}.png",
            {name: references[name] for name in entry["concepts"]},
        )
        for entry in manifest["images"]
    ]


def print_table(rows: list[dict[str, Any]], titles: dict[str, str]) -> None:
    """Print the table as Markdown."""
    from concept_conductor.evaluation.report.table import in_markdown, shown_estimate

    typer.echo("| method | people | images | text | image |\n| --- | ---: | ---: | ---: | ---: |")
    for row in rows:
        text, image = (shown_estimate(*(row[f"{n}{end}"] for end in ("", "_low", "_high"))) for n in ("text", "image"))
        title = in_markdown(titles.get(row["method"], row["method"]))
        typer.echo(f"| {title} | {row['people']} | {row['images']} | {text} | {image} |")
