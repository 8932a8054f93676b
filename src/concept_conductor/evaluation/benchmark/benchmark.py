"""Benchmark files: which images are made and compared, as YAML or JSON that people write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.schema import (
    BenchmarkConcept,
    Combination,
    PromptEntry,
    SharedSettings,
    StickerLayout,
    Subset,
    Word,
    listed_concepts,
)
from concept_conductor.io.documents import Document, DocumentError, FieldPath, named, read_document
from concept_conductor.recipes.files import locate_in
from concept_conductor.recipes.schema.fields import Count, Name, Seeds, Text
from concept_conductor.recipes.schema.layout import LayoutEntry
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.settings import Settings

MAX_COMPLAINTS = 20
"""Missing files that are named one by one."""


class SceneSpec(Settings):
    """One combination with one prompt: what all methods are asked for.

    Attributes:
        combination, prompt: their names.
        text: the base prompt, class words filled in.
        concepts: names, in the layout's order.
        replaces: the words that placeholders replace.
        layout, drawn: where it comes from; exactly one is given.
        place: of the prompt in the file.
        layout_place: of the layout.
    """

    combination: str
    prompt: str
    text: str
    concepts: tuple[str, ...]
    replaces: tuple[str, ...]
    layout: LayoutEntry | None
    drawn: StickerLayout | None
    place: FieldPath
    layout_place: FieldPath

    @property
    def to_be_drawn(self) -> LayoutEntry:
        """Stands for the layout until it is drawn."""
        return LayoutEntry(image="drawn", prompt=self.text, masks=("drawn",) * len(self.concepts))


class Benchmark(Settings):
    """Everything that decides a benchmark's images. Paths count from its file's folder.

    Attributes:
        name, version: results of another name or version are never mixed with these.
        model: as in a recipe.
        methods: names; None for all that are registered.
        metrics: names; None for all.
        settings: those of a recipe that all images share.
        concepts: name -> concept.
        combinations: which appear together.
        prompts: for every combination without its own.
        seeds: an image for each.
        layout, drawn: for every prompt without its own; ``{combination}`` and ``{prompt}`` in its texts are filled in.
        subsets: named parts.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,79}$")]
    version: Count
    model: Name = "mini"
    methods: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    settings: SharedSettings = Field(default_factory=dict)
    concepts: Annotated[dict[Word, BenchmarkConcept], Field(min_length=1)]
    combinations: Annotated[
        tuple[Annotated[Combination, BeforeValidator(listed_concepts)], ...], Field(min_length=1, max_length=1000)
    ]
    prompts: tuple[PromptEntry, ...] = ()
    seeds: Seeds = (0,)
    layout: LayoutEntry | None = None
    drawn: StickerLayout | None = None
    subsets: dict[str, Subset] = Field(default_factory=dict)

    _document: Document = PrivateAttr(default_factory=lambda: Document("the benchmark", {}))
    _folder: Path = PrivateAttr(default_factory=Path)

    @classmethod
    def load(cls, path: str | Path) -> Benchmark:
        """Read a benchmark file; the files that it names are looked at by :meth:`check_files`.

        Raises:
            DocumentError: it cannot be read or does not fit; each sentence names file, line and field.
        """
        return cls.from_document(read_document(path), Path(path).parent)

    @classmethod
    def from_document(cls, document: Document, folder: Path) -> Benchmark:
        """Make a benchmark whose paths count from ``folder``."""
        benchmark = document.validated(cls)
        benchmark._document, benchmark._folder = document, folder
        if complaints := list(benchmark._misfits()):
            raise DocumentError("\n".join(complaints))
        for scene in benchmark.scenes():
            benchmark.recipe(scene, scene.layout or scene.to_be_drawn)
        return benchmark

    @property
    def folder(self) -> Path:
        """What its paths count from."""
        return self._folder

    @property
    def source(self) -> str:
        """The file it came from, for messages."""
        return self._document.source

    def complaint(self, place: FieldPath, message: str) -> str:
        """Return ``message`` with the file, line and field it is about."""
        line = self._document.line(place)
        return f"{self.source}{f', line {line}' if line else ''}: '{named(place)}': {message}"

    def subset(self, name: str) -> Benchmark:
        """Return a named part, itself a benchmark of the same name and version.

        Raises:
            ConductorError: there is no subset of that name.
        """
        if name not in self.subsets:
            known = ", ".join(self.subsets) or "none"
            raise ConductorError(f"the benchmark '{self.name}' has no subset '{name}'; it has: {known}")
        part = self.subsets[name]
        combinations = tuple(
            one.model_copy(update={"prompts": one.prompts and one.prompts[: part.prompts]})
            for one in self.combinations[: part.combinations]
        )
        changes: dict[str, Any] = {"combinations": combinations, "prompts": self.prompts[: part.prompts]}
        changes |= {key: value for key in ("seeds", "methods") if (value := getattr(part, key)) is not None}
        return self.model_copy(update=changes | {"settings": self.settings | part.settings})

    def scenes(self) -> Iterator[SceneSpec]:
        """Yield every combination with every prompt of its."""
        for index, one in enumerate(self.combinations):
            own: FieldPath = ("combinations", index)
            place: FieldPath = (*own, "prompts") if one.prompts is not None else ("prompts",)
            for number, prompt in enumerate(one.prompts if one.prompts is not None else self.prompts):
                yield self._scene(one, own, prompt, (*place, number))

    def _scene(self, one: Combination, own: FieldPath, prompt: PromptEntry, place: FieldPath) -> SceneSpec:
        classes = [self.concepts[name].class_words for name in one.concepts]
        text = prompt.text
        for number, words in enumerate(classes, 1):
            text = text.replace(f"{{{number}}}", words)
        title, label = one.title, prompt.name or str(int(place[-1]) + 1)
        places: tuple[tuple[PromptEntry | Combination | Benchmark, FieldPath], ...] = (
            (prompt, place),
            (one, own),
            (self, ()),
        )
        giver, giving = next(((g, p) for g, p in places if g.layout or g.drawn), (prompt, place))
        layout = giver.layout and _filled(giver.layout, {"combination": title, "prompt": label, "text": text})
        return SceneSpec(
            combination=title,
            prompt=label,
            text=text,
            concepts=one.concepts,
            replaces=prompt.replaces or tuple(classes),
            layout=layout,
            drawn=giver.drawn,
            place=place,
            layout_place=(*giving, "layout"),
        )

    def recipe(self, scene: SceneSpec, layout: LayoutEntry) -> Recipe:
        """Return the recipe of a scene by the full method, without seeds; its messages name the benchmark's lines."""
        entries = [
            subject.model_dump(include={"file", "revision", "weight"}, exclude_none=True)
            | {"replaces": list(scene.replaces)}
            for subject in (self.concepts[name] for name in scene.concepts)
        ]
        data = {
            **self.settings,
            "model": self.model,
            "prompt": scene.text,
            "concepts": entries,
            "layout": layout.model_dump(exclude_none=True),
        }
        lines: dict[FieldPath, int] = {}
        for place, line in self._document.lines.items():
            if place[:1] == ("settings",):
                lines[place[1:]] = line
            if place[: len(scene.layout_place)] == scene.layout_place:
                lines[("layout", *place[len(scene.layout_place) :])] = line
            if place == (*scene.place, "text"):
                lines["prompt",] = line
            for index, name in enumerate(scene.concepts):
                if place[:2] == ("concepts", name):
                    lines[("concepts", index, *place[2:])] = line
        return Recipe.from_document(Document(self.source, data, lines), self.folder)

    def check_files(self) -> None:
        """Look whether every file that is named is there.

        Raises:
            DocumentError: some are not; a sentence for each, up to twenty.
        """
        missing: dict[FieldPath, str] = {}
        for name, subject in self.concepts.items():
            for index, reference in enumerate(subject.references):
                if not os.path.isfile(self.folder / reference):
                    missing["concepts", name, "references", index] = f"there is no file '{self.folder / reference}'"
        for scene in self.scenes():
            recipe = self.recipe(scene, scene.layout or scene.to_be_drawn)
            for place in recipe.files():
                if place[0] == "layout" and scene.drawn is not None:
                    continue
                own = self._place(scene, place)
                if own not in missing and (reason := _absent(recipe, place)):
                    missing[own] = reason
        complaints = [self.complaint(place, missing[place]) for place in sorted(missing, key=self._order)]
        if len(complaints) > MAX_COMPLAINTS:
            complaints[MAX_COMPLAINTS:] = [f"... and {len(complaints) - MAX_COMPLAINTS} more files are missing"]
        if complaints:
            raise DocumentError("\n".join(complaints))

    def _place(self, scene: SceneSpec, place: FieldPath) -> FieldPath:
        """Return where a benchmark says what a scene's recipe has at ``place``."""
        if place[0] == "concepts":
            index = place[1]
            assert isinstance(index, int)
            return ("concepts", scene.concepts[index], *place[2:])
        return (*scene.layout_place, *place[1:])

    def _order(self, place: FieldPath) -> tuple[int, str]:
        return self._document.line(place) or 0, named(place)

    def _misfits(self) -> Iterator[str]:
        """Yield what a single field does not show to be wrong."""
        for name, subject in self.concepts.items():
            place: FieldPath = ("concepts", name)
            if not subject.class_words.strip():
                yield self.complaint(place, "the concept has no 'class_words'; say what it is, such as dog")
            if (not subject.references) == (subject.design is None):
                yield self.complaint(place, "the concept has no 'references'; give images of it to measure by")
        for index, one in enumerate(self.combinations):
            for number, name in enumerate(one.concepts):
                if name not in self.concepts:
                    known = ", ".join(self.concepts)
                    place = ("combinations", index, "concepts", number)
                    yield self.complaint(place, f"there is no concept '{name}'; there are: {known}")
            if not (self.prompts if one.prompts is None else one.prompts):
                yield self.complaint(("combinations", index), "it has no prompts, and neither has the benchmark")
        titles = [one.title for one in self.combinations]
        for index, title in enumerate(titles):
            if title in titles[:index]:
                yield self.complaint(("combinations", index), f"a second one named '{title}'; give it another 'name'")
        if all(name in self.concepts for one in self.combinations for name in one.concepts):
            for scene in self.scenes():
                if (scene.layout is None) == (scene.drawn is None):
                    yield self.complaint(scene.place, "expected a layout here, for its combination or for all of them")


def _absent(recipe: Recipe, place: FieldPath) -> str | None:
    """Return why the file at a place of a recipe cannot be used; None where it is there."""
    try:
        path = locate_in(recipe, place, recipe.folder)
    except ConductorError as error:
        return str(error)
    return None if os.path.exists(path) else f"there is no file '{path}'"


def _filled(layout: LayoutEntry, words: Mapping[str, str]) -> LayoutEntry:
    """Return a layout entry with the names of the scene in its texts."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            for key, word in words.items():
                value = value.replace(f"{{{key}}}", word)
        return tuple(map(fill, value)) if isinstance(value, tuple) else value

    return layout.model_copy(update={name: fill(getattr(layout, name)) for name in type(layout).model_fields})
