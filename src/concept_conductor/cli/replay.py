"""`conductor replay`: make an image again from the recipe inside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from concept_conductor.cli import hide_loading_bars
from concept_conductor.errors import ConductorError
from concept_conductor.tracing.folder import check_folder, check_own

SAME = 1.0
"""Mean difference, in 255ths, up to which two images are the same to rounding."""


def replay(
    image: Annotated[
        Path, typer.Argument(help="A PNG made by conductor generate.", metavar="IMAGE.png", show_default=False)
    ],
    root: Annotated[Path | None, typer.Option(help="Folder that holds the recipe's files, if they were moved.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the model is, if elsewhere; a hub id lets it be downloaded.")
    ] = None,
    fetch: Annotated[
        list[str] | None,
        typer.Option(help="What the image names of the hub and may be downloaded; once for each.", metavar="NAME"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the new image.")] = Path("replayed"),
    trace: Annotated[Path | None, typer.Option(help="Folder for a look inside, as of conductor generate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came out as JSON.")] = False,
) -> None:
    """Make an image again from the recipe inside it, after checking that its files are the same by their hashes.

    Nothing that only the image names is asked of the hub, unless --model or --fetch names it too.
    """
    import numpy as np

    from concept_conductor.io.images import load_image, save_png
    from concept_conductor.recipes.provenance import Provenance, differing_versions
    from concept_conductor.recipes.run_folder import check_results

    made = Provenance.read(image)
    named = set(fetch or ())
    located = made.located(image, root, model, named)
    if model is not None:
        named |= {model, str(located["model",])}
    original = np.asarray(load_image(image), dtype=np.float32)
    file = out / f"{image.stem}.png"
    if file.exists() and file.resolve() == image.resolve():
        raise ConductorError(f"'{file}' is the image itself; choose another folder with --out")
    check_results(out)
    if trace is not None:
        check_folder(trace)
        check_own(trace, out)

    hide_loading_bars()
    from concept_conductor.recipes.runner import RecipeRunner

    runner = RecipeRunner.prepare(made.again(image, root), located=located, fetch=named)
    if made.model is not None and runner.provenance.model != made.model:  # one that was downloaded just now
        raise ConductorError(f"the model '{located['model',]}' is not the one that made '{image}': its files differ")
    made_again = runner.image(made.seed, trace=trace)
    save_png(made_again.image, file, made_again.provenance.metadata(file))

    again = np.asarray(made_again.image, dtype=np.float32)
    difference = np.abs(again - original) if again.shape == original.shape else np.full(1, 255.0)
    others = differing_versions(made.versions)
    if as_json:
        report = {"file": str(file), "identical": not difference.any(), "mean_difference": float(difference.mean())}
        report |= {"max_difference": float(difference.max()), "versions": others}
        typer.echo(json.dumps(report, indent=2))
    elif not difference.any():
        typer.echo(f"{file}: identical, pixel for pixel")
    else:
        typer.echo(f"{file}: differs by {difference.mean():.3f} of 255 on average, {difference.max():.0f} at most")
    if trace is not None and not as_json:
        typer.echo(f"{trace / 'index.html'}  a look inside")
    if difference.mean() > SAME:
        why = f"made with {', '.join(others)}" if others else "edited after it was made, or made on another device"
        raise ConductorError(f"'{file}' is not the same image as '{image}', which may have been {why}")
