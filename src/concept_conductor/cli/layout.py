"""`conductor layout`: look at layouts before anything is sampled, and make collages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_conductor.cli import hide_loading_bars

if TYPE_CHECKING:
    from concept_conductor.recipes.schema.recipe import Recipe

app = typer.Typer(help="Look at layouts, and make collages.", no_args_is_help=True, add_completion=False)

Out = Annotated[Path | None, typer.Option(help="Folder for the images.", show_default="outputs/NAME")]


@app.command()
def show(
    recipe: Annotated[Path, typer.Argument(help="A recipe: YAML or JSON.", metavar="RECIPE.yaml", show_default=False)],
    out: Out = None,
) -> None:
    """Write a recipe's layout with its masks in colours, and each mask, without making the recipe's images.

    The model is loaded only where the layout has to be generated, or its regions found.
    """
    from concept_conductor.recipes.schema.recipe import Recipe

    _write(Recipe.load(recipe), out or Path("outputs") / recipe.stem, preview=True)


@app.command()
def collage(
    spec: Annotated[
        Path, typer.Argument(help="A collage: background and cut-outs.", metavar="SPEC.yaml", show_default=False)
    ],
    preview: Annotated[bool, typer.Option("--preview", help="Also write it with its masks in colours.")] = False,
    model: Annotated[str, typer.Option(help="What generates the background, where it has a prompt.")] = "mini",
    out: Out = None,
) -> None:
    """Write a collage's image and the mask of each of its cut-outs, ready for a recipe's image and masks."""
    from concept_conductor.recipes.schema.recipe import collage_recipe

    _write(collage_recipe(spec, model), out or Path("outputs") / spec.stem, preview=preview)


def _write(recipe: Recipe, folder: Path, *, preview: bool) -> None:
    """Write a recipe's layout to a folder, and say what was written."""
    hide_loading_bars()
    from concept_conductor.recipes.run_folder import check_results, write_layout
    from concept_conductor.recipes.show_layout import preview_layout

    check_results(folder)
    seen = preview_layout(recipe)
    for file in write_layout(folder, seen.layout.image, seen.masks, seen.names, preview=preview):
        typer.echo(file)
