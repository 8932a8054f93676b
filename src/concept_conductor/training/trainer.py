"""The training loop: Mix-of-Show's recipe for ED-LoRA, which the paper keeps."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.backbones import Backbone
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.conversion import with_dtype
from concept_conductor.errors import ConductorError
from concept_conductor.prompts import TokenizedPrompt, placeholder_embeddings, tokenize
from concept_conductor.training import checkpoint
from concept_conductor.training.attention import TrainingPaths, Watch, layerwise_texts
from concept_conductor.training.augmentation import Placing, canvas, place_subject
from concept_conductor.training.captions import TEMPLATES, TOKEN, varied, with_placeholders
from concept_conductor.training.config import Precision, TrainingConfig
from concept_conductor.training.dataset import Example, read_folder
from concept_conductor.training.losses import attention_loss, masked_loss, target
from concept_conductor.training.parameters import TrainableConcept
from concept_conductor.training.samples import draw_curves, sample_grid
from concept_conductor.unet.layers import cross_attention_names
from concept_conductor.unet.paths import Forward

BETAS = (0.9, 0.999)
SAMPLE_GRIDS = 4
#: Latents of pictures already seen are kept, this many bytes of them.
KEPT_LATENTS = 256 * 1024**2


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


@dataclass(frozen=True)
class Batch:
    """One step's samples.

    Attributes:
        latents: ``(B, 4, h, w)``.
        mask: ``(B, 1, H, W)`` of 0 and 1, at the pictures' resolution.
        prompts: with the placeholders.
    """

    latents: Tensor
    mask: Tensor
    prompts: list[str]


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
        self.examples = read_folder(config.images, config.masks) if examples is None else examples
        self.steps = config.total_steps(len(self.examples))
        self.resolution = config.resolution or int(backbone.unet.config.sample_size) * backbone.vae_factor
        self.precision = config.precision or (Precision.fp16 if backbone.device.type == "cuda" else Precision.fp32)
        self.threshold = config.norm_threshold or backbone.defaults.training.norm_threshold
        self._check()
        for model in (backbone.unet, backbone.text_encoder, backbone.vae):
            model.requires_grad_(False)
            model.eval()
        self.parameters = TrainableConcept(backbone, config.placeholders, config.initialisers, config.rank, config.seed)
        groups = self.parameters.groups(config.learning_rates)
        self.rates = [float(str(group["lr"])) for group in groups]
        self.optimizer = torch.optim.AdamW(groups, betas=BETAS, weight_decay=config.weight_decay)
        self.scaler = torch.amp.GradScaler(backbone.device.type, enabled=self.precision is Precision.fp16)
        self.done = 0
        self.history: list[list[float]] = []  # of each step: loss, attention loss, norms
        self._latents: dict[tuple[int, Placing], Tensor] = {}

    @property
    def checkpoint_file(self) -> Path:
        return self.config.folder / "checkpoint.pt"

    def run(self, resume: bool = True) -> Generator[TrainingStep, None, None]:
        """Train to the end, yielding every step; close it to stop.

        Args:
            resume: go on from the checkpoint where there is one; otherwise it is discarded.

        Raises:
            ConductorError: the checkpoint is damaged or of another training, or the loss is no longer a number.
        """
        if resume and self.checkpoint_file.exists():
            self._restore()
        else:
            self.checkpoint_file.unlink(missing_ok=True)
        while self.done < self.steps:
            yield from self._segment(self._next_stop())

    def concept(self) -> Concept:
        """The concept as it is now."""
        return self.parameters.concept(self.config.concept_name, self.metadata)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What the concept's file says of its making."""
        config = self.config
        recipe = config.model_dump(
            mode="json",
            exclude={"images", "masks", "output", "model", "name", "author", "licence", "device", "samples"},
        )
        known = {
            "base": config.model,
            "base_hash": self.backbone.fingerprint(),
            "class_word": config.class_word,
            "initialiser": "+".join(config.initialisers),
            "training": json.dumps({**recipe, "steps": self.steps, "images": len(self.examples)}),
            "author": config.author,
            "licence": config.licence,
        }
        return {key: value for key, value in known.items() if value is not None}

    # --- one stretch between two stops -------------------------------------------------------------------------

    def _next_stop(self) -> int:
        """The step at which the training next stops to write something."""
        rhythms = (self.config.checkpoint_every, self.samples_every)
        return min(self.steps, *((self.done // every + 1) * every for every in rhythms))

    @property
    def samples_every(self) -> int:
        return self.config.samples.every or max(1, -(-self.steps // SAMPLE_GRIDS))

    def _segment(self, stop: int) -> Generator[TrainingStep, None, None]:
        """Steps up to ``stop``, after which the layers are out of the model and files are written."""
        with self.parameters.inserted(), layerwise_texts(self.backbone.unet) as paths:
            while self.done < stop - 1:
                yield self._step(paths)
            last = self._step(paths)
        saved = samples = None
        if self.done % self.config.checkpoint_every == 0 and self.done < self.steps:
            saved = self._save()
        if self.done % self.samples_every == 0 or self.done == self.steps:
            samples = self._sample()
        yield TrainingStep(last.step, last.steps, last.loss, last.attention, last.norms, last.frozen, saved, samples)

    def _step(self, paths: TrainingPaths) -> TrainingStep:
        """One step of the optimiser."""
        remaining = 1 - self.done / self.steps  # linear decay to zero
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * remaining
        loss, attention = self._loss(paths)
        total = loss + self.config.regularisation.weight * attention
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        norms = self.parameters.norms()
        self.parameters.freeze(norms, self.threshold)
        self.done += 1
        numbers = [float(loss.detach()), float(attention.detach()), *norms]
        if not all(map(torch.isfinite, torch.tensor(numbers))):
            raise ConductorError(
                f"the loss is no longer a number at step {self.done}; use lower learning rates or precision: fp32"
            )
        self.history.append(numbers)
        return TrainingStep(self.done, self.steps, numbers[0], numbers[1], tuple(norms), all(self.parameters.frozen))

    def _loss(self, paths: TrainingPaths) -> tuple[Tensor, Tensor]:
        """Masked denoising loss and attention loss of the next batch."""
        config, backbone = self.config, self.backbone
        random = Random(f"{config.seed}/{self.done}")
        generator = torch.Generator().manual_seed(random.getrandbits(63))
        batch = self._batch(random)
        latents = batch.latents
        noise = torch.randn(latents.shape, generator=generator)
        noise = noise + config.noise_offset * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
        t = torch.randint(backbone.scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        noise, t = noise.to(latents), t.to(latents.device)
        noisy = backbone.scheduler.add_noise(latents, noise, t)
        goal = target(backbone.scheduler, latents, noise, t)

        with self._autocast():
            texts, positions = self._texts(batch.prompts)
            regularised = config.regularisation.weight > 0 and bool((batch.mask == 0).any())
            paths.watch = Watch(positions, (noisy.shape[-2], noisy.shape[-1])) if regularised else None
            forward = Forward(slice(0, 1), texts, images=1)
            with paths.running(forward):
                prediction = backbone.unet(noisy, t, encoder_hidden_states=forward.rows_of_text(0), return_dict=False)[
                    0
                ]
        small = F.interpolate(batch.mask, noisy.shape[-2:], mode="area").clamp(min=config.background)
        loss = masked_loss(prediction, goal, small)
        if paths.watch is None:
            return loss, loss.new_zeros(())
        return loss, attention_loss(paths.watch.maps, batch.mask, config.regularisation.full_identity)

    def _texts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """The prompts with gradients to all that is trained.

        Returns:
            ``(1, B, layers, tokens, dim)``, and the placeholders' positions ``(B, placeholders)``.
        """
        layers, hidden = len(cross_attention_names(self.backbone.unet)), []
        tokenized: list[TokenizedPrompt] = []
        for reader, tokens in zip(self.parameters.readers, self.parameters.tokens, strict=True):
            tokenized = [tokenize(reader.tokenizer, prompt, self.config.placeholders) for prompt in prompts]
            ids = torch.stack([text.ids for text in tokenized]).repeat_interleave(layers, dim=0)
            embedding = reader.encoder.get_input_embeddings()
            with placeholder_embeddings(embedding, tokenized, tokens, layers):
                hidden.append(reader.encoder(ids.to(self.backbone.device))[0])
        texts = torch.cat(hidden, -1).unflatten(0, (1, len(prompts), layers))
        places = [{name: position for position, name in text.placeholders.items()} for text in tokenized]
        positions = [[place[name] for name in self.config.placeholders] for place in places]
        return texts, torch.tensor(positions, device=self.backbone.device)

    def _batch(self, random: Random) -> Batch:
        """The samples of the next step; every image comes once before any comes again."""
        config, count = self.config, len(self.examples)
        templates = config.augmentation.templates
        templates = TEMPLATES[templates] if isinstance(templates, str) else templates
        latents, masks, prompts = [], [], []
        for number in range(self.done * config.batch, (self.done + 1) * config.batch):
            order = Random(f"{config.seed}/order/{number // count}").sample(range(count), count)
            index = order[number % count]
            example = self.examples[index]
            placing = place_subject(example, self.resolution, config.augmentation.crop, random)
            pixels, mask = canvas(example, placing, self.resolution)
            latents.append(self._encoded(index, placing, pixels))
            masks.append(mask)
            caption = varied(example.caption, templates, config.augmentation.shuffle, random)
            prompts.append(with_placeholders(caption, config.placeholders))
        return Batch(torch.cat(latents), torch.stack(masks).to(self.backbone.device), prompts)

    def _encoded(self, index: int, placing: Placing, pixels: Tensor) -> Tensor:
        """Latents ``(1, 4, h, w)`` of one picture.

        Encoded one by one, since a picture's latents differ by rounding from batch to batch, and those of square
        images, which can be placed in few ways, are kept.
        """
        key = (index, placing)
        if key in self._latents:
            return self._latents[key]
        latents = self.backbone.encode_image(pixels[None])
        if sum(kept.nbytes for kept in self._latents.values()) < KEPT_LATENTS:
            self._latents[key] = latents
        return latents

    def _autocast(self) -> AbstractContextManager[None]:
        if self.precision is Precision.fp32:
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(self.backbone.device.type, self.precision.dtype)
        return context

    # --- files -------------------------------------------------------------------------------------------------

    @cached_property
    def _identity(self) -> dict[str, str]:
        """What a checkpoint belongs to: everything that the numbers depend on."""
        leave_out = {
            "images",
            "masks",
            "output",
            "format",
            "file_precision",
            "name",
            "author",
            "licence",
            "device",
            "samples",
        }
        recipe = self.config.model_dump(mode="json", exclude=leave_out | {"checkpoint_every", "model", "precision"})
        images = sha256("".join(example.fingerprint() for example in self.examples).encode()).hexdigest()
        return {
            **{key: json.dumps(value) for key, value in recipe.items()},
            "steps": str(self.steps),
            "precision": self.precision.value,
            "resolution": str(self.resolution),
            "norm_threshold": str(self.threshold),
            "the images": images,
            "the model": self.backbone.fingerprint(),
        }

    def _save(self) -> Path:
        state = {
            "done": self.done,
            "history": self.history,
            "concept": self.parameters.state(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        checkpoint.write(self.checkpoint_file, state, self._identity)
        return self.checkpoint_file

    def _restore(self) -> None:
        state = checkpoint.read(self.checkpoint_file, self._identity)
        self.parameters.load_state(state["concept"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.done, self.history = state["done"], state["history"]

    def _sample(self) -> Path | None:
        """The curves as they are now, and a grid where there are prompts for one."""
        self._draw()
        if not self.config.samples.prompts:
            return None
        path = self.config.folder / f"samples-{self.done:05d}.png"
        sample_grid(self.backbone, self.concept(), self.config.samples, self.resolution).save(path)
        return path

    def _draw(self) -> None:
        """The curves, as numbers and as a picture."""
        folder = self.config.folder
        folder.mkdir(parents=True, exist_ok=True)
        encoders = range(1, len(self.parameters.readers) + 1)
        with (folder / "log.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss", "attention", *(f"norm_{encoder}" for encoder in encoders)])
            writer.writerows([step, *numbers] for step, numbers in enumerate(self.history, start=1))
        columns = list(zip(*self.history, strict=True))
        if columns:
            draw_curves(folder / "curves.png", columns[0], columns[1], columns[2], self.threshold)

    # --- checks ------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        backbone, config = self.backbone, self.config
        if self.resolution % backbone.size_multiple:
            raise ConductorError(
                f"the resolution {self.resolution} does not fit this model; take a multiple of {backbone.size_multiple}"
            )
        if self.precision is Precision.fp32 and backbone.dtype != torch.float32:
            raise ConductorError(
                f"the model is loaded in {str(backbone.dtype).removeprefix('torch.')} but precision is fp32; "
                "load it in float32, or set precision to fp16 or bf16"
            )
        if self.precision is Precision.fp16 and backbone.device.type == "cpu":
            raise ConductorError("precision fp16 needs a CUDA device; take bf16 or fp32 on a CPU")
        for prompt in config.samples.prompts:
            if TOKEN not in prompt:
                raise ConductorError(f"the sample prompt '{prompt}' lacks {TOKEN}, which stands for the placeholders")
        if not self.examples:
            raise ConductorError("there are no training images; give at least one")


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
    examples = read_folder(config.images, config.masks)
    trainer = Trainer(backbone or load_backbone(config), config, examples)
    with closing(trainer.run(resume)) as steps:
        for step in steps:
            if progress is not None:
                progress(step)
    concept = trainer.concept()
    config.format.save(with_dtype(concept, config.file_precision.dtype), config.output)
    trainer.checkpoint_file.unlink(missing_ok=True)
    return concept


def load_backbone(config: TrainingConfig) -> Backbone:
    """The recipe's base model in fp32, on its device."""
    from concept_conductor.pipeline import ConceptConductorPipeline

    device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipeline: Any = ConceptConductorPipeline.from_pretrained(config.model, torch_dtype=torch.float32)
    backbone: Backbone = pipeline.to(device).backbone
    return backbone
