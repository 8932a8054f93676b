"""What a training writes: checkpoints, numbers and curves, sample grids."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import ConductorError
from concept_conductor.io.files import atomic_write, check_output
from concept_conductor.io.images import save_png
from concept_conductor.training import checkpoint
from concept_conductor.training.batches import Batches
from concept_conductor.training.config import TrainingConfig
from concept_conductor.training.samples import draw_curves, sample_grid

CHECKPOINT, LOG, CURVES = "checkpoint.pt", "log.csv", "curves.png"
"""Files in the folder of a training."""

#: Fields of a recipe that say where things are, or what is written about the concept, but change no number of it.
NOT_NUMBERS = {"images", "masks", "output", "model", "name", "author", "licence", "device", "samples"}


def check_outputs(config: TrainingConfig) -> None:
    """Look whether everything that a training writes can be written, before it takes hours.

    Raises:
        ConductorError: something cannot.
    """
    check_output(config.output)
    if config.folder == config.output:
        raise ConductorError(
            f"the output '{config.output}' has the name of the folder for checkpoints and samples; choose another "
            f"ending, such as {config.output.stem}{config.format.suffix}"
        )
    for name in (CHECKPOINT, LOG, CURVES):
        check_output(config.folder / name)


class Records:
    """The folder of a training, beside the concept's file."""

    def __init__(self, batches: Batches) -> None:
        self.backbone, self.config, self.plan = batches.backbone, batches.config, batches.plan
        self.examples = batches.examples

    @property
    def checkpoint_file(self) -> Path:
        return self.config.folder / CHECKPOINT

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the concept's file says of its making."""
        config = self.config
        recipe = {**config.model_dump(mode="json", exclude=NOT_NUMBERS), **self._plan}
        known = {
            "base": config.model,
            "base_hash": self.fingerprint,
            "class_word": config.class_word,
            "initialiser": "+".join(config.initialisers),
            "training": json.dumps({**recipe, "images": len(self.examples)}),
            "author": config.author,
            "licence": config.licence,
        }
        return {key: value for key, value in known.items() if value is not None}

    @cached_property
    def identity(self) -> dict[str, str]:
        """What a checkpoint belongs to: everything that the numbers depend on."""
        leave_out = NOT_NUMBERS | {"format", "file_precision", "checkpoint_every", *self._plan}
        leave_out |= {"prediction_type"}  # the model's fingerprint has it
        leave_out |= {"learning_rates", "rank", "norm_threshold"}  # the plan has them, filled
        recipe = {**self.config.model_dump(mode="json", exclude=leave_out), **self._plan}
        images = sha256("".join(example.fingerprint() for example in self.examples).encode()).hexdigest()
        return {
            **{key: json.dumps(value) for key, value in recipe.items()},
            "the images": images,
            "the model": self.fingerprint,
        }

    def save(self, state: dict[str, Any]) -> Path:
        """Write a checkpoint."""
        checkpoint.write(self.checkpoint_file, state, self.identity)
        return self.checkpoint_file

    def restore(self) -> dict[str, Any]:
        """Read the state of the checkpoint.

        Raises:
            ConductorError: it is damaged, or of another training.
        """
        return checkpoint.read(self.checkpoint_file, self.identity)

    def grid(self, concept: Concept, step: int) -> Path | None:
        """Draw and write a sample grid, where there are prompts for one."""
        if not self.config.samples.prompts:
            return None
        grid = sample_grid(self.backbone, concept, self.config.samples, self.plan.resolution)
        return save_png(grid, self.config.folder / f"samples-{step:05d}.png")

    def draw(self, history: list[list[float]]) -> None:
        """Write the curves, as numbers and as an image.

        Args:
            history: of each step: loss, attention loss, and a norm for each text encoder.
        """
        encoders = range(1, len(self.plan.norm_thresholds) + 1)
        numbers = io.StringIO()
        writer = csv.writer(numbers)
        writer.writerow(["step", "loss", "attention", *(f"norm_{encoder}" for encoder in encoders)])
        writer.writerows([step, *values] for step, values in enumerate(history, start=1))
        with atomic_write(self.config.folder / LOG) as file:
            file.write(numbers.getvalue().encode())
        if not history:
            return
        losses, attention, *norms = zip(*history, strict=True)
        if (curves := draw_curves(losses, attention, norms, self.plan.norm_thresholds)) is not None:
            with atomic_write(self.config.folder / CURVES) as file:
                file.write(curves)

    @cached_property
    def fingerprint(self) -> str:
        """The base model's."""
        return self.backbone.fingerprint()

    @property
    def _plan(self) -> dict[str, Any]:
        return {**asdict(self.plan), "precision": self.plan.precision.value}
