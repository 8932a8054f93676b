"""The entries of a benchmark file: concepts, prompts, combinations and named parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from concept_conductor.recipes.schema.fields import Count, Name, Real, Seed, Seeds, Text
from concept_conductor.recipes.schema.layout import LayoutEntry
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.settings import Settings

#: What a benchmark sets for each scene by itself.
OF_THE_SCENE = ("model", "prompt", "prompt_2", "concepts", "layout", "placement", "seeds", "output")

Word = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f/\\]+$")]
"""A name that may become part of a file's."""


def _named_settings(value: Any) -> Any:
    """Take only what all images share: the rest the benchmark decides scene by scene."""
    known = [name for name in Recipe.model_fields if name not in OF_THE_SCENE]
    for name in value if isinstance(value, Mapping) else ():
        if name not in known:
            raise ValueError(f"'{name}' is no setting of a benchmark; expected some of {', '.join(known)}")
    return value


def listed_concepts(value: Any) -> Any:
    """Take ``[dog, cat]`` for a combination with nothing but its concepts."""
    return {"concepts": value} if isinstance(value, list) else value


SharedSettings = Annotated[dict[str, Any], BeforeValidator(_named_settings)]


class BenchmarkConcept(Settings):
    """A concept of a benchmark.

    Attributes:
        file, revision: as in a recipe: a file, folder, shipped name (``mini/NAME``), hub repository, or several.
        class_words: what it is in plain words ("dog"): prompts say so, detectors look for it.
        weight: how strongly its low-rank weights apply; None for the pipeline's own.
        references: images of it that likeness is measured against; or
        design: its design in the sticker world, which then draws the references.
    """

    file: Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)]
    revision: Text | None = None
    class_words: Text = ""
    weight: Annotated[Real, Field(ge=-10, le=10)] | None = None
    references: tuple[Name, ...] = ()
    design: Text | None = None


class StickerLayout(Settings):
    """A layout that the sticker world draws, with objects of the concepts' classes in designs that the base knows.

    Attributes:
        backdrop: a background of that world ("beach").
        seed: of the drawing.
    """

    backdrop: Text
    seed: Seed = 0


class PromptEntry(Settings):
    """A base prompt; ``{1}`` in it is the class words of the combination's first concept.

    Attributes:
        text: the prompt.
        name: for tables and files; its number if not given.
        replaces: the words that placeholders replace; the class words if not given.
        layout, drawn: the layout reference, one of the two; else the combination's, else the benchmark's.
    """

    text: Text
    name: Word | None = None
    replaces: tuple[Text, ...] | None = None
    layout: LayoutEntry | None = None
    drawn: StickerLayout | None = None


class Combination(Settings):
    """Concepts that appear together, in the layout's order.

    Attributes:
        concepts: their names.
        name: for tables and files; the concepts' names joined if not given.
        prompts: of its own, instead of the benchmark's.
        layout, drawn: see :class:`PromptEntry`.
    """

    concepts: Annotated[tuple[Text, ...], Field(min_length=1, max_length=8)]
    name: Word | None = None
    prompts: tuple[PromptEntry, ...] | None = None
    layout: LayoutEntry | None = None
    drawn: StickerLayout | None = None

    @property
    def title(self) -> str:
        """Its name, or its concepts'."""
        return self.name or " + ".join(self.concepts)


class Subset(Settings):
    """A named part of a benchmark.

    Attributes:
        combinations, prompts: so many of the first.
        seeds, methods: instead of the benchmark's.
        settings: laid over the benchmark's.
    """

    combinations: Count | None = None
    prompts: Count | None = None
    seeds: Seeds | None = None
    methods: tuple[Text, ...] | None = None
    settings: SharedSettings = Field(default_factory=dict)
