"""`conductor mini`: train the embedded model, and measure it.

Torch and what stands on it are imported when a command runs, so that `conductor --help` is quick.
"""

from __future__ import annotations

import dataclasses
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concept_conductor.mini import CONCEPTS_FOLDER, JUDGE_FILE, MODEL_FOLDER

if TYPE_CHECKING:
    from concept_conductor.mini.presets import Preset
    from concept_conductor.mini.trainer import Replica, Settings

#: What tells most about the method; `all` has the other ablations too.
ROWS = ("full", "no-alignment", "no-injection", "no-refinement", "merged")

app = typer.Typer(help="Train the embedded model, and measure it.", no_args_is_help=True, add_completion=False)


class Part(str, Enum):
    """What can be trained."""

    vae = "vae"
    unet = "unet"
    judge = "judge"
    all = "all"


class PresetName(str, Enum):
    """Keys of `presets.PRESETS`."""

    cpu = "cpu"
    cuda = "cuda"


class Background(str, Enum):
    """As for `Placement`."""

    inversion = "inversion"
    noise = "noise"


@app.command()
def train(
    part: Annotated[Part, typer.Argument(help="What to train; `all` goes through the three in order.")],
    state: Annotated[Path, typer.Option(help="Folder for checkpoints; an interrupted run continues from it.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained model and the judge.")],
    preset: Annotated[PresetName, typer.Option(help="Which version.")] = PresetName.cpu,
    minutes: Annotated[float | None, typer.Option(help="Training time of each part, if not the preset's.")] = None,
) -> None:
    """Train the autoencoder, the U-Net with its text encoder, or the judge, from nothing."""
    from concept_conductor.mini.presets import PRESETS
    from concept_conductor.mini.trainer import launch

    state.mkdir(parents=True, exist_ok=True)
    chosen = PRESETS[preset]
    for name in [Part.vae, Part.unet, Part.judge] if part is Part.all else [part]:
        settings = getattr(chosen, name)
        if minutes is not None:
            settings = dataclasses.replace(settings, minutes=minutes)
        launch(_train, name, chosen, settings, state, out, processes=chosen.processes)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder for the contact sheets.")],
    model: Annotated[Path, typer.Option(help="The model.")] = MODEL_FOLDER,
    concepts: Annotated[Path, typer.Option(help="Folder of concepts, CLASS-STYLE.safetensors.")] = CONCEPTS_FOLDER,
    preset: Annotated[PresetName, typer.Option(help="The version that the model is.")] = PresetName.cpu,
    seeds: Annotated[int, typer.Option(help="Images per prompt, from seeds 0, 1, ...", min=1)] = 2,
    methods: Annotated[str, typer.Option(help="The rows, with commas between, or all.")] = ",".join(ROWS),
    pairs: Annotated[int, typer.Option(help="So many pairs of concepts, look-alikes first.", min=0)] = 10,
) -> None:
    """Measure the model with the judge: single objects, pairs, concepts alone, pairs of concepts by each method.

    On two CPU cores a row of ten pairs takes about six minutes.
    """
    from concept_conductor.cli import hide_loading_bars

    hide_loading_bars()
    from concept_conductor.evaluation.benchmark.methods import METHODS, find_methods
    from concept_conductor.evaluation.mini.report import load_concepts, measure
    from concept_conductor.mini.presets import PRESETS
    from concept_conductor.pipeline.pipeline import ConceptConductorPipeline

    rows = find_methods(list(METHODS) if methods == "all" else [name.strip() for name in methods.split(",")])
    pipe = ConceptConductorPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    for what, value in measure(pipe, PRESETS[preset].world(), load_concepts(concepts), seeds, out, rows, pairs):
        typer.echo(f"{what:<60}{value}")


@app.command()
def placements(
    out: Annotated[Path, typer.Option(help="Folder for the contact sheet.")],
    model: Annotated[Path, typer.Option(help="The model.")] = MODEL_FOLDER,
    concepts: Annotated[Path, typer.Option(help="Folder of concepts, CLASS-STYLE.safetensors.")] = CONCEPTS_FOLDER,
    preset: Annotated[PresetName, typer.Option(help="The version that the model is.")] = PresetName.cpu,
    seeds: Annotated[str, typer.Option(help="Such as 0 or 0-3: so often is each concept replaced and added.")] = "0",
    background: Annotated[Background, typer.Option(help="Where latents outside of the mask come from.")] = (
        Background.inversion
    ),
) -> None:
    """Measure with the judge how each concept is placed in images: in an object's stead, and beside one.

    A line is printed for each placement, then the shares recognised and the lowest PSNR outside of the masks.
    """
    from concept_conductor.cli import hide_loading_bars

    hide_loading_bars()
    from concept_conductor.evaluation.mini.placements import measure_placements
    from concept_conductor.evaluation.mini.report import load_concepts
    from concept_conductor.mini.presets import PRESETS
    from concept_conductor.pipeline.pipeline import ConceptConductorPipeline
    from concept_conductor.recipes.schema.fields import parse_seeds

    try:
        chosen = [int(seed) for seed in parse_seeds(seeds)]
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--seeds") from error
    pipe = ConceptConductorPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    world, known = PRESETS[preset].world(), load_concepts(concepts)
    for what, value in measure_placements(pipe, world, known, chosen, out, background.value):
        typer.echo(f"{what:<60}{value}")


def _train(part: Part, preset: Preset, settings: Settings, state: Path, out: Path, replica: Replica) -> None:
    """One part in one process; the first process writes what other parts read."""
    from diffusers import AutoencoderKL

    from concept_conductor.mini import judge, tokenizer, unet, vae

    if part is Part.vae:
        trained = vae.train(preset, settings, state / "vae.pt", replica)
        if replica.rank == 0:
            trained.save_pretrained(state / "vae")
        return
    autoencoder = AutoencoderKL.from_pretrained(state / "vae")
    if part is Part.unet:
        words = tokenizer.build(state / f"tokenizer-{replica.rank}")
        unet.train(preset, settings, autoencoder, words, state, out, replica)
    else:
        judge.train(preset, settings, autoencoder, state / "judge.pt", out / JUDGE_FILE.name, replica)
