"""What a recipe needs, and what is wrong with it, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.conditioning import unread_part
from concept_conductor.backbones.meta import PUBLISHED, MetaModel
from concept_conductor.backbones.prompt_syntax import syntax_warning
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import FieldPath
from concept_conductor.memory.estimate import DryRun, Estimate, MemoryOptions
from concept_conductor.memory.savings import GIB, Option, options
from concept_conductor.pipeline.inputs import image_size
from concept_conductor.pipeline.loading import describe
from concept_conductor.recipes.files import locate_in, locate_model
from concept_conductor.recipes.load_inputs import load_inputs
from concept_conductor.recipes.model import misfits, number_type, settings_of
from concept_conductor.recipes.schema.recipe import Recipe

GPU = "cuda"  # memory is estimated for one, whether there is one or not


class Diagnosis(BaseModel):
    """What is known of a recipe beforehand. All bytes are estimates: nothing was run or measured.

    Attributes:
        recipe, model, family: which; the family is None where the model is not known.
        width, height, concepts, dtype: of the run.
        weights: network -> bytes.
        phases: part of the run -> bytes of GPU memory, the recipe as it is; nothing where something is wrong.
        options: the recipe as it is, and with settings that make it need less.
        card, card_memory: the GPU of this machine and its bytes, or None.
        problems: what is wrong, a sentence each.
        notes: what will not be read as it may be meant, a sentence each.
    """

    model_config = ConfigDict(frozen=True)

    recipe: str
    model: str
    concepts: int
    dtype: str
    family: str | None = None
    width: int | None = None
    height: int | None = None
    weights: dict[str, int] = {}
    phases: dict[str, int] = {}
    options: tuple[Option, ...] = ()
    card: str | None = None
    card_memory: int | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self.options:
            size = f"{self.width}x{self.height} px, {self.concepts} concepts, {self.dtype}"
            parts.append(Text(f"{self.recipe}: {self.family}, {size}"))
            phases = Table("part of the run", "GiB", title="Estimated GPU memory (not measured)", title_justify="left")
            for name, size_in_bytes in self.phases.items():
                phases.add_row(name, f"{size_in_bytes / GIB:.1f}")
            parts += [phases, self._choices()]
        if self.card is not None and self.card_memory is not None:
            parts.append(Text(f"this machine: {self.card}, {self.card_memory / GIB:.0f} GiB"))
        parts += [Text(f"note: {note}", style="yellow") for note in self.notes]
        parts += [Text(f"problem: {problem}", style="red") for problem in self.problems]
        return Group(*parts)

    def _choices(self) -> Table:
        here = self.card_memory is not None
        columns = ["settings", "GiB, with CUDA's own", "smallest card", *(["fits here"] if here else [])]
        table = Table(*columns, title="What it takes", title_justify="left")
        for choice in self.options:
            row = [
                "\n".join(choice.settings) or "as the recipe is",
                f"{choice.peak / GIB:.1f}",
                "none of the common ones" if choice.card is None else f"{choice.card} GB",
            ]
            if self.card_memory is not None:
                row.append("yes" if choice.peak <= self.card_memory else "no")
            table.add_row(*row)
        return table


def diagnose(recipe: Recipe, family: str | None = None) -> Diagnosis:
    """Check a recipe's files against each other and its model, and estimate what it needs on a GPU.

    Args:
        recipe: loaded.
        family: "sd15", "sd21" or "sdxl", for a model that is not on this machine.
    """
    problems: list[str] = []
    concepts = _opened(recipe, problems)
    dtype = number_type(recipe, GPU)
    known: dict[str, Any] = {
        "recipe": recipe.source,
        "model": recipe.model,
        "concepts": len(recipe.concepts),
        "dtype": str(dtype).removeprefix("torch."),
    }
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        known |= {"card": card.name, "card_memory": card.total_memory}
    try:
        backbone = _described(recipe, dtype, family)
        known["family"] = backbone.name
        width, height = image_size(backbone, recipe.width, recipe.height)
    except ConductorError as error:
        return Diagnosis(**known, problems=(*problems, str(error)))
    known |= {"width": width, "height": height, "notes": tuple(_notes(recipe, backbone, concepts))}
    problems += map(str, misfits(recipe, backbone, concepts))
    if problems:
        return Diagnosis(**known, problems=tuple(problems))
    try:
        estimate, choices = _dry_run(recipe, backbone, (width, height), concepts)
    except ConductorError as error:
        return Diagnosis(**known, problems=(str(error),))
    return Diagnosis(**known, weights=estimate.weights, phases=estimate.phases, options=tuple(choices))


def _opened(recipe: Recipe, problems: list[str]) -> list[ConceptPrompt]:
    """Return the recipe's concepts after opening all of its files; put what is wrong into ``problems``."""
    paths: dict[FieldPath, Path | str] = {}
    for place in recipe.files():
        try:
            paths[place] = locate_in(recipe, place, recipe.folder)
            if not Path(paths[place]).exists():
                raise ConductorError(f"there is no file '{paths[place]}'; paths count from the recipe's folder")
        except ConductorError as error:
            problems.append(str(recipe.error(place, str(error))))
    if not problems:
        try:
            return load_inputs(recipe, paths, generate=False).concepts
        except ConductorError as error:
            problems.append(str(error))
    return []


def _described(recipe: Recipe, dtype: torch.dtype, family: str | None) -> Backbone:
    """Return the recipe's model without data: from its files, checked as for loading, or as its family was published.

    Raises:
        ConductorError: something in the files is missing, damaged or not honoured, or nothing is known of the model.
    """
    with recipe.blaming("model"):
        where = locate_model(recipe.model, recipe.folder)
        if isinstance(where, Path):
            return describe(where, dtype, recipe.prediction_type)
        if family is None:
            raise ConductorError(
                f"the model '{recipe.model}' is not on this machine, so that its configuration is not known; say what "
                f"it is with --family {', '.join(PUBLISHED)}"
            )
        return MetaModel.published(family).backbone(dtype)


def _notes(recipe: Recipe, backbone: Backbone, concepts: Sequence[ConceptPrompt]) -> Iterator[str]:
    """Yield what of the recipe's prompts will not be read as it may be meant."""
    if sentence := syntax_warning(recipe.texts()):
        yield sentence
    tokenizers = [encoder.tokenizer for encoder in backbone.text_encoders]
    if recipe.chunk_prompts or None in tokenizers:
        return
    texts: list[tuple[str, Concept | None]] = [(text, None) for text in (recipe.prompt, recipe.negative_prompt) if text]
    texts += [(entry.variant(recipe.prompt), entry.concept) for entry in concepts]
    for text, concept in texts:
        names, positions = ((), None) if concept is None else (concept.placeholders, concept.positions)
        if sentence := unread_part(tokenizers[0], text, names, positions):
            yield sentence


def _dry_run(
    recipe: Recipe, backbone: Backbone, size: tuple[int, int], concepts: Sequence[ConceptPrompt]
) -> tuple[Estimate, list[Option]]:
    """Return the estimate of the recipe as it is, and the ways to run it."""
    settings = settings_of(recipe, backbone.defaults)
    own = MemoryOptions(
        paths_per_forward=recipe.paths_per_forward,
        gradient_checkpointing=settings.alignment is not None and settings.alignment.gradient_checkpointing,
        vae_tiling=recipe.vae_tiling,
        offload=recipe.offload,
    )
    dry_run = DryRun(backbone, settings, size, [entry.concept.unet for entry in concepts])
    return dry_run.estimate(own), options(dry_run, own)
