"""`conductor generate`: make the images of a recipe."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_conductor.cli import hide_loading_bars
from concept_conductor.errors import ConductorError
from concept_conductor.tracing.folder import check_folder, check_own, folders_of

if TYPE_CHECKING:
    from concept_conductor.recipes.run_folder import RunFolder
    from concept_conductor.recipes.runner import StepReport
    from concept_conductor.recipes.schema.recipe import Recipe

PREVIEWS = 10
"""Previews of an image, evenly over its steps."""


def generate(
    recipe: Annotated[Path, typer.Argument(help="A recipe: YAML or JSON.", metavar="RECIPE.yaml", show_default=False)],
    seeds: Annotated[str | None, typer.Option(help="Instead of the recipe's: 3, 0-7 or 0,3,5.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results.", show_default="the recipe's, or outputs/NAME")
    ] = None,
    previews: Annotated[bool, typer.Option("--previews", help="Also write the images as they form.")] = False,
    trace: Annotated[
        Path | None,
        typer.Option(help="Folder for a look inside the runs: attention, masks, losses, and a page to scrub through."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run's record as JSON, and no progress.")] = False,
) -> None:
    """Make the images of a recipe, one for each seed.

    Writes each with its masks, the layout, a contact sheet (grid.png) and run.json. Every PNG carries its recipe:
    `conductor replay` makes it again.
    """
    from concept_conductor.recipes.schema.recipe import Recipe

    chosen = with_seeds(Recipe.load(recipe), seeds)
    own = chosen.folder / chosen.output if chosen.output else Path("outputs") / recipe.stem
    folder = out or Path(os.path.normpath(own))
    from concept_conductor.recipes.run_folder import RunFolder, check_results

    check_results(folder)
    if trace is not None:
        for place in folders_of(trace, chosen.seeds):
            check_folder(place)
            check_own(place, folder)
    if not as_json:
        typer.echo(f"Loading {chosen.model} ...", err=True)
    start = time.perf_counter()
    hide_loading_bars()
    from concept_conductor.recipes.runner import RecipeRunner

    runner = RecipeRunner.prepare(chosen)
    if (previews or trace is not None) and runner.pipe.safety_checker is not None:
        what = "are no previews" if previews else "is no trace"
        raise ConductorError(f"there {what} with this checkpoint: its safety checker judges finished images")
    run = RunFolder(folder, runner, recipe, time.perf_counter() - start)
    status = "failed"
    try:
        make_all(run, previews=previews, trace=trace, quiet=as_json)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        typer.echo(f"interrupted: {kept(run)}", err=True)
        raise typer.Exit(130) from None
    except Exception:
        if run.finished:
            typer.echo(kept(run), err=True)
        raise
    finally:
        run.close(status)
    if as_json:
        typer.echo(json.dumps(run.record(status), indent=2, ensure_ascii=False))
        return
    for entry in run.finished:
        note = " (blacked out by the checkpoint's safety checker)" if entry["blacked_out_by_safety_checker"] else ""
        typer.echo(f"{folder / entry['file']}  {entry['seconds']:.1f} s{note}")
    if trace is not None:
        for place in folders_of(trace, chosen.seeds):
            typer.echo(f"{place / 'index.html'}  a look inside")


def kept(run: RunFolder) -> str:
    """Say what is left of a run that did not end well."""
    done, asked = len(run.finished), len(run.runner.recipe.seeds)
    return f"{done} of {asked} images are finished and kept in '{run.path}'" if done else "no image was finished"


def with_seeds(recipe: Recipe, seeds: str | None) -> Recipe:
    """Return the recipe with the command line's seeds."""
    if seeds is None:
        return recipe
    from concept_conductor.recipes.schema.fields import parse_seeds

    try:
        return recipe.model_copy(update={"seeds": tuple(parse_seeds(seeds))})
    except ValueError as error:
        raise ConductorError(f"--seeds: {error}") from error


def make_all(run: RunFolder, *, previews: bool, trace: Path | None, quiet: bool) -> None:
    """Make and write every image, with a progress bar on stderr."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    from concept_conductor.cli.terminal import shown_progress, words

    seeds = run.runner.recipe.seeds
    columns = (words("description"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with shown_progress(*columns, quiet=quiet, transient=True) as bar:
        task = bar.add_task("reading the prompts", total=None)

        def after_step(report: StepReport) -> None:
            number = seeds.index(report.seed) + 1
            what = "inverting the layout for " if report.preview is None else ""
            text = f"{what}image {number} of {len(seeds)} (seed {report.seed})"
            bar.update(task, description=text, completed=report.step, total=report.steps)
            if previews and report.preview is not None and report.step % max(1, report.steps // PREVIEWS) == 0:
                run.preview(report.preview(), report.seed, report.step)

        for image in run.runner.images(after_step, trace):
            run.add(image)
