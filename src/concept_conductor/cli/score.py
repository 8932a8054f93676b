"""`conductor score`: measure images that are there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from concept_conductor.evaluation.metrics.items import ConceptReference, Item
    from concept_conductor.evaluation.metrics.observed_image import Row
    from concept_conductor.evaluation.metrics.places import Region
    from concept_conductor.io.pretrained import Checkpoint

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm")


def score(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of nothing else.", show_default=False)],
    prompt: Annotated[
        str | None, typer.Option(help="What they were asked to show; by default what the recipe inside each says.")
    ] = None,
    references: Annotated[
        list[str] | None,
        typer.Option(
            "--references",
            "--concept",
            help="A concept that they should show, as often as there are concepts: its class words and an image or "
            "folder of images of it, and a name where that is not the folder's.",
            metavar="[NAME=]CLASS WORDS=PATH",
        ),
    ] = None,
    places: Annotated[
        list[str] | None,
        typer.Option(
            "--place",
            help="Where a concept belongs, as often as there are concepts and in their order: a mask, white inside, or "
            "left,top,right,bottom as fractions of the sides.",
            metavar="MASK or X0,Y0,X1,Y1",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(help="Names with commas between; by default all that fit.", metavar="NAME,...")
    ] = None,
    model: Annotated[
        str, typer.Option(help="What made them: 'mini' is measured by the embedded judge, others by Grounded-SAM.")
    ] = "stable-diffusion",
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            help="Another measuring model than the published one: grounding_dino, sam, clip, dino, image_reward or "
            "image_reward_tokenizer, and a folder or hub id for it.",
            metavar="NAME=FOLDER or NAME=ID@REVISION",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; by default the GPU if any.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Where numbers are kept; by default the user's cache.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor keep numbers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all details.")] = False,
) -> None:
    """Measure how well images show their concepts and fit their prompt.

    A table of the images and their mean; what each number means is in docs/metrics.md.
    """
    from concept_conductor.cli import hide_loading_bars

    hide_loading_bars()
    from concept_conductor.evaluation.metrics.instruments import Instruments
    from concept_conductor.evaluation.metrics.registry import default_metrics, find_metrics
    from concept_conductor.evaluation.metrics.scoring import score_images

    named = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    if named is not None:
        find_metrics(named)
    concepts = tuple(_concept(text) for text in references or ())
    belong = tuple(_place(text) for text in places or ())
    items = [_item(file, prompt, concepts, belong) for file in _images(images)]
    instruments = Instruments.for_model(model, device, checkpoints=dict(_checkpoint(text) for text in checkpoint or ()))
    if named is None:
        chosen = find_metrics(default_metrics(instruments))
        fitting = [metric for metric in chosen if concepts or not metric.needs_concepts]
        named = [metric.name for metric in fitting if belong or metric.name != "arrangement"] or ["clip_t"]
    if not no_cache and cache is None:
        from concept_conductor.io.files import default_cache_folder

        cache = default_cache_folder().parent / "scores"
    rows = score_images(items, named, instruments, None if no_cache else cache)
    if as_json:
        typer.echo(json.dumps([_unfolded(row) for row in rows], indent=2))
        return
    from concept_conductor.cli.terminal import console

    console(soft_wrap=True).print(*_tables(rows))


def _images(given: list[Path]) -> list[Path]:
    """Return the files named, and those in the folders named."""
    from concept_conductor.errors import ConductorError

    files = []
    for path in given:
        if not os.path.isdir(path):
            files.append(path)
            continue
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not found:
            raise ConductorError(f"the folder '{path}' holds no images; expected {', '.join(SUFFIXES)}")
        files.extend(found)
    return files


def _concept(text: str) -> ConceptReference:
    """Read ``[NAME=]CLASS WORDS=PATH``."""
    from concept_conductor.errors import ConductorError
    from concept_conductor.evaluation.metrics.items import ConceptReference

    parts = text.split("=")
    if len(parts) not in (2, 3) or not all(part.strip() for part in parts):
        raise ConductorError(f"'{text}' is no concept; expected [NAME=]CLASS WORDS=PATH, as in 'a dog=photos/my_dog'")
    *name, words, place = parts
    path = Path(place)
    if not os.path.exists(path):
        raise ConductorError(f"there is no image or folder '{path}' of '{words}'; check the path")
    return ConceptReference(name[0].strip() if name else path.stem, words.strip(), tuple(_images([path])))


def _place(text: str) -> Region:
    """Read a mask's file, or ``LEFT,TOP,RIGHT,BOTTOM``."""
    from concept_conductor.errors import ConductorError

    if os.path.isfile(text):
        return Path(text)
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        raise ConductorError(
            f"'{text}' is no place; expected a mask that is there, or left,top,right,bottom such as 0,0.2,0.5,1"
        ) from None
    if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
        raise ConductorError(f"the place {text} is none; expected fractions with 0 <= left < right <= 1, and so down")
    return left, top, right, bottom


def _checkpoint(text: str) -> tuple[str, Checkpoint]:
    """Read ``NAME=FOLDER`` or ``NAME=ID[@REVISION]``."""
    from concept_conductor.errors import ConductorError
    from concept_conductor.io.pretrained import Checkpoint

    name, _, place = text.partition("=")
    if not place:
        raise ConductorError(f"'{text}' is no measuring model; expected NAME=FOLDER or NAME=ID@REVISION")
    identifier, _, revision = place.partition("@")
    return name, Checkpoint(place) if os.path.exists(place) else Checkpoint(identifier, revision or None)


def _item(file: Path, prompt: str | None, concepts: tuple[ConceptReference, ...], places: tuple[Region, ...]) -> Item:
    from concept_conductor.errors import ConductorError
    from concept_conductor.evaluation.metrics.items import Item
    from concept_conductor.io.images import read_recipe

    if prompt is None and os.path.isfile(file):
        try:
            prompt = str(json.loads(read_recipe(file))["prompt"])
        except (ConductorError, ValueError, KeyError, TypeError) as error:
            raise ConductorError(f"'{file}' carries no recipe that says its prompt; give --prompt") from error
    return Item(file, prompt or "", concepts, places)


def _unfolded(row: Row) -> dict[str, object]:
    """Return a row whose details, texts of JSON, are objects."""
    return {
        name: json.loads(value) if isinstance(value, str) and value[:1] in "[{" else value
        for name, value in row.items()
    }


def _tables(rows: list[Row]) -> list[RenderableType]:
    """Draw the images with their numbers and the mean; below it the mean of each metric by subject area."""
    from rich.table import Table

    from concept_conductor.evaluation.metrics.segsim import AREAS

    numbers = [name for name in rows[0] if name != "image" and not any(isinstance(row[name], str) for row in rows)]
    by_area = sorted({name.removesuffix("_small") for name in numbers if name.endswith("_small")})
    areas = [f"{name}_{area}" for name in by_area for area in AREAS]
    plain = [name for name in numbers if name not in areas]

    table = Table("image", *plain)
    for row in rows:
        table.add_row(str(row["image"]), *(_shown(row[name]) for name in plain))
    if len(rows) > 1:
        table.add_section()
        table.add_row("mean", *(_shown(_mean(rows, name)) for name in plain))
    if not by_area:
        return [table]
    split = Table("by subject area", *AREAS)
    for name in by_area:
        split.add_row(name, *(_shown(_mean(rows, f"{name}_{area}")) for area in AREAS))
    return [table, split]


def _mean(rows: list[Row], name: str) -> float | None:
    values = [value for row in rows if isinstance(value := row[name], int | float)]
    return sum(values) / len(values) if values else None


def _shown(value: float | str | None) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, int | float) else value
