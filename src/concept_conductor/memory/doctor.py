"""What a recipe needs, and what is wrong with it, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.meta import PUBLISHED, MetaModel
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import FieldPath
from concept_conductor.memory.estimate import DryRun, Estimate, MemoryOptions
from concept_conductor.memory.savings import GIB, Option, options
from concept_conductor.pipeline.inputs import image_size
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
        family: "sd15", "sd21" or "sdxl", for a model whose configuration is not on this machine.
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
        backbone = _meta_model(recipe, family).backbone(dtype)
        known["family"] = backbone.name
        width, height = image_size(backbone, recipe.width, recipe.height)
    except ConductorError as error:
        return Diagnosis(**known, problems=(*problems, str(error)))
    known |= {"width": width, "height": height}
    problems += map(str, misfits(recipe, backbone, concepts))
    if problems:
        return Diagnosis(**known, problems=tuple(problems))
    try:
        estimate, choices = _dry_run(recipe, backbone, (width, height), concepts)
    except ConductorError as error:
        return Diagnosis(**known, problems=(str(error),))
    return Diagnosis(**known, weights=estimate.weights, phases=estimate.phases, options=tuple(choices))


def _opened(recipe: Recipe, problems: list[str]) -> list[ConceptPrompt]:
    """The recipe's concepts, after all of its files have been opened; what is wrong goes into ``problems``."""
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
            concepts, _, _ = load_inputs(recipe, paths)
            return concepts
        except ConductorError as error:
            problems.append(str(error))
    return []


def _meta_model(recipe: Recipe, family: str | None) -> MetaModel:
    """The model's networks, from its folder or, where it is none, as the family was published."""
    where = locate_model(recipe.model, recipe.folder)
    if isinstance(where, Path) and where.is_dir():
        return MetaModel.read(where)
    if family is None:
        raise ConductorError(
            f"the model '{recipe.model}' is no folder on this machine, so that its configuration is not known; "
            f"say what it is with --family {', '.join(PUBLISHED)}"
        )
    return MetaModel.published(family)


def _dry_run(
    recipe: Recipe, backbone: Backbone, size: tuple[int, int], concepts: Sequence[ConceptPrompt]
) -> tuple[Estimate, list[Option]]:
    """The estimate of the recipe as it is, and the ways to run it."""
    settings = settings_of(recipe, backbone.defaults)
    own = MemoryOptions(
        paths_per_forward=recipe.paths_per_forward,
        gradient_checkpointing=settings.alignment is not None and settings.alignment.gradient_checkpointing,
        vae_tiling=recipe.vae_tiling,
        offload=recipe.offload,
    )
    rehearsal = DryRun(backbone, settings, size, [entry.concept.unet for entry in concepts])
    return rehearsal.estimate(own), options(rehearsal, own)
