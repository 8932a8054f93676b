"""`conductor train`: a concept from a few images."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from concept_conductor.cli.terminal import shown_progress, words
from concept_conductor.concepts.formats.convert import ConceptFormat


def train(
    config: Annotated[
        Path, typer.Argument(help="The training's recipe: YAML or JSON.", metavar="CONCEPT.yaml", show_default=False)
    ],
    output: Annotated[Path | None, typer.Option(help="Concept file to write; the recipe's if not given.")] = None,
    format: Annotated[
        ConceptFormat | None, typer.Option(help="Format of that file, ours or mixofshow; the recipe's if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint, if there is one.")] = True,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps; the recipe's if not given.")] = None,
) -> None:
    """Train a concept from 1 to 30 images."""
    from concept_conductor.cli import hide_loading_bars

    hide_loading_bars()
    from concept_conductor.training.config import TrainingConfig
    from concept_conductor.training.trainer import TrainingStep
    from concept_conductor.training.trainer import train as run

    changes: dict[str, Any] = {"output": output, "format": format, "steps": steps}
    recipe = TrainingConfig.load(config, {key: value for key, value in changes.items() if value is not None})
    columns = (words("description"), BarColumn(), MofNCompleteColumn(), words("fields[numbers]"), TimeRemainingColumn())
    with shown_progress(*columns) as bar:
        task = bar.add_task(recipe.concept_name, total=None, numbers="")
        smooth: list[float] = []

        def show(step: TrainingStep) -> None:
            smooth.append(step.loss)
            loss = sum(smooth[-50:]) / len(smooth[-50:])
            norms = ", ".join(f"{norm:.3f}" for norm in step.norms) + (" (frozen)" if step.frozen else "")
            numbers = f"loss {loss:.3f}  attention {step.attention:.2f}  norm {norms}"
            bar.update(task, total=step.steps, completed=step.step, numbers=numbers)
            if step.samples is not None:
                bar.console.print(f"samples at step {step.step}: {step.samples}", soft_wrap=True)

        try:
            run(recipe, resume=resume, progress=show)
        except KeyboardInterrupt:
            checkpoint = recipe.folder / "checkpoint.pt"
            kept = (
                f"the last checkpoint is kept in {checkpoint}; the same command goes on from it"
                if checkpoint.exists()
                else "there was no checkpoint yet, so nothing is kept"
            )
            bar.console.print(f"interrupted; {kept}", soft_wrap=True)
            raise typer.Exit(130) from None
    typer.echo(recipe.output)
