"""The training loop: Mix-of-Show's recipe for ED-LoRA, which the paper keeps."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from concept_conductor.backbones.base import Backbone
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats.convert import with_dtype
from concept_conductor.errors import ConductorError
from concept_conductor.io.temporary import remove, temporary_name
from concept_conductor.training.attention import TrainingPaths
from concept_conductor.training.batches import Batches
from concept_conductor.training.config import Precision, TrainingConfig
from concept_conductor.training.dataset import Example, read_folder
from concept_conductor.training.objective import Objective
from concept_conductor.training.parameters import TrainableConcept
from concept_conductor.training.plan import Plan
from concept_conductor.training.records import Records, check_outputs

BETAS = (0.9, 0.999)
SAMPLE_GRIDS = 4


@dataclass(frozen=True)
class TrainingStep:
    """What one step gave.

    Attributes:
        step, steps: how far the training is; the first is 1.
        loss: masked denoising loss.
        attention: attention loss before its weight; 0 where it is off.
        norms: for each text encoder, the mean norm of the placeholders' vectors.
        frozen: whether all vectors have reached the norm at which they stay.
        checkpoint, samples: files written after this step, or None.
    """

    step: int
    steps: int
    loss: float
    attention: float
    norms: tuple[float, ...]
    frozen: bool
    checkpoint: Path | None = None
    samples: Path | None = None


class Trainer:
    """Trains one concept on a loaded model, which is afterwards what it was.

    Every step draws from streams of its own, seeded by the configuration's seed and the step: a training that was
    killed and resumed gives the same numbers as one that was not.

    Args:
        backbone: the base model; its weights stay as they are.
        config: the recipe.
        examples: the images; None to read them from the recipe's folder.

    Raises:
        ConductorError: the recipe does not fit the model or the images.
    """

    def __init__(self, backbone: Backbone, config: TrainingConfig, examples: list[Example] | None = None) -> None:
        self.backbone = backbone
        self.config = config
        examples = read_folder(config.images, config.masks) if examples is None else examples
        if not examples:
            raise ConductorError("there are no training images; give at least one")
        self.plan = Plan.of(config, backbone, len(examples))
        for model in backbone.models:
            model.requires_grad_(False)
            model.eval()
        self.parameters = TrainableConcept(backbone, config.placeholders, config.initialisers, self.plan, config.seed)
        batches = Batches(backbone, config, self.plan, examples)
        self.objective = Objective(self.parameters, batches)
        self.records = Records(batches)
        groups = self.parameters.groups(self.plan)
        self.rates = [float(str(group["lr"])) for group in groups]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=config.weight_decay)
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=self.plan.precision is Precision.fp16)
        self.done = 0
        self.history: list[list[float]] = []  # of each step: loss, attention loss, norms

    def run(self, resume: bool = True) -> Generator[TrainingStep, None, None]:
        """Train to the end, yielding every step; close it to stop.

        Args:
            resume: go on from the checkpoint where there is one; otherwise it is discarded.

        Raises:
            ConductorError: the checkpoint is damaged or of another training, or the loss is no longer a number.
        """
        check_outputs(self.config)
        if resume and self.records.checkpoint_file.exists():
            self._restore()
        else:
            self.records.checkpoint_file.unlink(missing_ok=True)
        while self.done < self.plan.steps:
            yield from self._segment(self._next_stop())

    def concept(self) -> Concept:
        """Return the concept as it is now."""
        return self.parameters.concept(self.config.concept_name, self.records.metadata)

    @property
    def samples_every(self) -> int:
        return self.config.samples.every or max(1, -(-self.plan.steps // SAMPLE_GRIDS))

    def _next_stop(self) -> int:
        """Return the step at which the training next stops to write something."""
        rhythms = (self.config.checkpoint_every, self.samples_every)
        return min(self.plan.steps, *((self.done // every + 1) * every for every in rhythms))

    def _segment(self, stop: int) -> Generator[TrainingStep, None, None]:
        """Take the steps up to ``stop``, after which the layers are out of the model and files are written."""
        with self.objective.prepared() as paths:
            while self.done < stop - 1:
                yield self._step(paths)
            last = self._step(paths)
        saved = samples = None
        if self.done % self.config.checkpoint_every == 0 and self.done < self.plan.steps:
            saved = self.records.save(self._state())
        if self.done % self.samples_every == 0 or self.done == self.plan.steps:
            self.records.draw(self.history)
            samples = self.records.grid(self.concept(), self.done)
        yield replace(last, checkpoint=saved, samples=samples)

    def _step(self, paths: TrainingPaths) -> TrainingStep:
        """Take one step of the optimiser."""
        remaining = 1 - self.done / self.plan.steps  # linear decay to zero
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * remaining
        loss, attention = self.objective.losses(self.done, paths)
        total = loss + self.config.regularisation.weight * attention
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        norms = self.parameters.norms()
        self.parameters.freeze(norms, self.plan.norm_thresholds)
        self.done += 1
        numbers = [float(loss.detach()), float(attention.detach()), *norms]
        if not all(map(torch.isfinite, torch.tensor(numbers))):
            raise ConductorError(
                f"the loss is no longer a number at step {self.done}; use lower learning rates or precision: fp32"
            )
        self.history.append(numbers)
        frozen = all(self.parameters.frozen)
        return TrainingStep(self.done, self.plan.steps, numbers[0], numbers[1], tuple(norms), frozen)

    def _state(self) -> dict[str, Any]:
        """Return all that the next step's numbers depend on, but for what a checkpoint belongs to."""
        return {
            "done": self.done,
            "history": self.history,
            "concept": self.parameters.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def _restore(self) -> None:
        state = self.records.restore()
        self.parameters.load_state(state["concept"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.done, self.history = state["done"], state["history"]


Progress = Callable[[TrainingStep], None]


def train(
    config: TrainingConfig, *, backbone: Backbone | None = None, resume: bool = True, progress: Progress | None = None
) -> Concept:
    """Train a concept and write its file.

    Args:
        config: the recipe.
        backbone: the base model; None to load the recipe's.
        resume: go on from a checkpoint where there is one.
        progress: told of every step.

    Raises:
        ConductorError: bad input; nothing is half-written.
    """
    check_outputs(config)
    examples = read_folder(config.images, config.masks)
    trainer = Trainer(backbone or load_backbone(config), config, examples)
    _rehearse(trainer)
    with closing(trainer.run(resume)) as steps:
        for step in steps:
            if progress is not None:
                progress(step)
    concept = _save(trainer, config.output)
    trainer.records.checkpoint_file.unlink(missing_ok=True)
    return concept


def _rehearse(trainer: Trainer) -> None:
    """Write the concept beside its file and remove it: what cannot be written is told before the first step."""
    output = trainer.config.output
    rehearsal = temporary_name(output)
    try:
        _save(trainer, rehearsal)
    except ConductorError as error:
        raise type(error)(str(error).replace(str(rehearsal), str(output))) from error
    finally:
        remove(rehearsal)


def _save(trainer: Trainer, path: Path) -> Concept:
    """Write the concept as it is now."""
    concept = trainer.concept()
    trainer.config.format.save(with_dtype(concept, trainer.config.file_precision.dtype), path)
    return concept


def load_backbone(config: TrainingConfig) -> Backbone:
    """Load the recipe's base model in fp32, on its device."""
    from concept_conductor.pipeline.pipeline import load_model

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipeline: Any = load_model(config.model, torch_dtype=torch.float32, prediction_type=config.prediction_type)
    backbone: Backbone = pipeline.to(device).backbone
    return backbone
