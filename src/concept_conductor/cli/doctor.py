"""`conductor doctor`: what a recipe needs, and what is wrong with it, before it runs."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Family(str, Enum):
    """The supported families of models."""

    sd15 = "sd15"
    sd21 = "sd21"
    sdxl = "sdxl"


def doctor(
    recipe: Annotated[Path, typer.Argument(help="A recipe: YAML or JSON.", metavar="RECIPE.yaml", show_default=False)],
    family: Annotated[
        Family | None, typer.Option(help="What the model is, where it is not on this machine as a folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate a recipe's GPU memory, say which settings make it need less, and check its files.

    No weights are loaded and nothing is run; the figures are estimates. Exit status 1 where something is wrong.
    """
    from concept_conductor.cli import hide_loading_bars
    from concept_conductor.recipes.schema.recipe import Recipe

    loaded = Recipe.load(recipe)
    hide_loading_bars()
    from concept_conductor.cli.terminal import console
    from concept_conductor.memory.doctor import diagnose

    found = diagnose(loaded, None if family is None else family.value)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        console(soft_wrap=True).print(found)
    if found.problems:
        raise typer.Exit(1)
