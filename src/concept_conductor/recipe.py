"""Recipes: one YAML or JSON file = one reproducible picture (or one for each of several seeds)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from concept_conductor.documents import Document, Place, named, read_document
from concept_conductor.errors import ConductorError
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement, Settings

if TYPE_CHECKING:
    from concept_conductor.pipeline import ConceptConductorPipeline
    from concept_conductor.rendering import Picture, StepReport

MAX_SEEDS = 10_000

Name = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]
"""A path as a recipe writes it."""
Text = Annotated[str, Field(strict=True, max_length=20_000)]
Count = Annotated[int, Field(strict=True, ge=1)]
Side = Annotated[int, Field(strict=True, ge=8, le=8192)]
Real = Annotated[float, Field(strict=True)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]


def parse_seeds(value: Any) -> Any:
    """Seeds as people write them, ``3``, ``[0, 5]`` or ``"0-7, 12"``, as a list.

    Raises:
        ValueError: the text names no seeds, or too many.
    """
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    seeds: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19}))?\s*", part)
        if match is None:
            raise ValueError(f"expected seeds like 3, 0-7 or 0,3,5, but it is '{value}'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last - first >= MAX_SEEDS:
            raise ValueError(f"expected 1 to {MAX_SEEDS:,} seeds from low to high, but '{part.strip()}' is not")
        seeds.extend(range(first, last + 1))
    return list(dict.fromkeys(seeds))


def _listed(value: Any) -> Any:
    """One word stands for a list of one."""
    return [value] if isinstance(value, str) else value


def _switched(value: Any) -> Any:
    """``off`` (which YAML reads as False) is None, ``on`` is the section with nothing set."""
    if isinstance(value, str) and value.lower() in ("off", "on"):
        value = value.lower() == "on"
    return {} if value is True else None if value is False else value


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError(f"expected auto, cpu, mps, cuda or cuda:1, but it is '{value}'")
    return value


class ConceptEntry(Settings):
    """One concept.

    Attributes:
        file: its file or folder, the name of a shipped one (``mini/NAME``) or of a hub repository (``user/name``,
            ``user/name/file.safetensors``), or a list of those that make one concept together.
        revision: branch, tag or commit of hub repositories.
        prompt: the prompt variant with the concept's placeholders; or
        replaces: the words of the recipe's prompt that the placeholders replace.
        prompt_2: its variant of the recipe's ``prompt_2``.
        weight: how strongly the low-rank weights apply.
    """

    file: Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)]
    revision: Text | None = None
    prompt: Text | None = None
    prompt_2: Text | None = None
    replaces: Annotated[tuple[Text, ...], BeforeValidator(_listed)] | None = None
    weight: Annotated[Real, Field(ge=-10, le=10)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> ConceptEntry:
        if (self.prompt is None) == (self.replaces is None):
            raise ValueError("expected either 'prompt' (with the placeholders) or 'replaces', exactly one of the two")
        return self


class LayoutEntry(Settings):
    """The layout reference.

    Attributes:
        image: picture with the wanted arrangement.
        prompt: what it shows.
        masks: a picture per concept, white inside; or
        points: ``[x, y]`` per concept, in pixels of ``image``; or
        boxes: ``[left, top, right, bottom]`` per concept, in pixels of ``image``; or
        words: what each concept takes the place of in ``image``, "a dog" or "a dog on the right".
    """

    image: Name
    prompt: Text
    masks: tuple[Name, ...] | None = None
    points: tuple[tuple[Real, Real], ...] | None = None
    boxes: tuple[tuple[Real, Real, Real, Real], ...] | None = None
    words: tuple[Text, ...] | None = None

    @model_validator(mode="after")
    def _one_of_four(self) -> LayoutEntry:
        if sum(places is not None for places in (self.masks, self.points, self.boxes, self.words)) != 1:
            raise ValueError(
                "expected either 'masks', 'points', 'boxes' or 'words', one for each concept, exactly one of them"
            )
        return self

    @property
    def kind(self) -> str:
        """The name of the field that says where the concepts are."""
        return next(name for name in ("masks", "points", "boxes", "words") if getattr(self, name) is not None)


class PlacementEntry(Settings):
    """Where objects are replaced or added in a given picture.

    Attributes:
        image: the picture.
        mask: the area that may change, white.
        prompt: what it shows; the layout's prompt if not given.
        background: where the unchanged area's latents come from.
    """

    image: Name
    mask: Name
    prompt: Text | None = None
    background: Literal["inversion", "noise"] = "inversion"


class Recipe(Settings):
    """Everything that decides a picture. Paths count from the recipe's folder; None is the pipeline's own default.

    Attributes:
        model: "mini", a diffusers folder, a ``.safetensors`` or ``.ckpt`` checkpoint, or a hub id.
        dtype: "auto" is float16 on CUDA, float32 elsewhere.
        device: "auto" is CUDA where there is one.
        prompt, negative_prompt: the base prompt, and what to steer away from.
        prompt_2, negative_prompt_2: for SDXL's second text encoder, where it shall read something else.
        concepts, layout, placement: see there.
        width, height: in pixels.
        steps, guidance_scale, paths_per_forward: as for the pipeline.
        offload: keep only the network at work on the GPU.
        vae_tiling: encode and decode in tiles.
        seeds: a picture for each.
        alignment, injection, refinement: the method's parts; ``off`` switches one off.
        inversion: of the layout reference.
        output: folder for the results.
    """

    model: Name = "mini"
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: Annotated[Text, AfterValidator(_device)] = "auto"
    prompt: Text
    negative_prompt: Text = ""
    prompt_2: Text | None = None
    negative_prompt_2: Text | None = None
    concepts: tuple[ConceptEntry, ...] = ()
    layout: Annotated[LayoutEntry | None, Field(validate_default=True)] = None
    placement: PlacementEntry | None = None
    width: Side | None = None
    height: Side | None = None
    steps: Annotated[Count, Field(le=1000)] | None = None
    guidance_scale: Annotated[Real, Field(ge=1)] | None = None
    seeds: Annotated[
        tuple[Seed, ...],
        BeforeValidator(parse_seeds),
        Field(min_length=1, max_length=MAX_SEEDS),
        AfterValidator(lambda seeds: tuple(dict.fromkeys(seeds))),
    ] = (0,)
    alignment: Annotated[Alignment | None, BeforeValidator(_switched)] = Alignment()
    injection: Annotated[Injection | None, BeforeValidator(_switched)] = Injection()
    refinement: Annotated[Refinement | None, BeforeValidator(_switched)] = Refinement()
    inversion: Inversion = Inversion()
    paths_per_forward: Count | None = None
    offload: bool = False
    vae_tiling: bool = False
    output: Name | None = None

    _document: Document = PrivateAttr(default_factory=lambda: Document("the recipe", {}))
    _folder: Path = PrivateAttr(default_factory=Path)

    @field_validator("layout")
    @classmethod
    def _fits_the_concepts(cls, layout: LayoutEntry | None, info: ValidationInfo) -> LayoutEntry | None:
        concepts = info.data.get("concepts", ())
        if layout is None:
            if concepts:
                raise ValueError(
                    "concepts need a layout; give its 'image', 'prompt', and 'masks', 'points', 'boxes' or 'words'"
                )
            return layout
        kind = layout.kind
        places = getattr(layout, kind)
        if "concepts" in info.data and concepts and len(places) != len(concepts):
            raise ValueError(
                f"{len(places)} {kind} for {len(concepts)} concepts; give one for each concept, in the concepts' order"
            )
        return layout

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file.

        Raises:
            DocumentError: it cannot be read or does not fit; each sentence names file, line and field.
        """
        return cls.from_document(read_document(path), Path(path).parent)

    @classmethod
    def from_document(cls, document: Document, folder: Path) -> Recipe:
        """A recipe whose paths count from ``folder``."""
        recipe = document.validated(cls)
        recipe._document, recipe._folder = document, folder
        return recipe

    @property
    def source(self) -> str:
        """The file it came from, for messages."""
        return self._document.source

    @property
    def folder(self) -> Path:
        """What its paths count from."""
        return self._folder

    def files(self) -> dict[Place, str]:
        """Every file it names, but for the model: place in the recipe -> name as written."""
        found: dict[Place, str] = {}
        for index, entry in enumerate(self.concepts):
            place: Place = ("concepts", index, "file")
            found |= (
                {place: entry.file}
                if isinstance(entry.file, str)
                else {(*place, number): name for number, name in enumerate(entry.file)}
            )
        if self.layout is not None:
            found["layout", "image"] = self.layout.image
            found |= {("layout", "masks", i): name for i, name in enumerate(self.layout.masks or ())}
        if self.placement is not None:
            found["placement", "image"] = self.placement.image
            found["placement", "mask"] = self.placement.mask
        return found

    def revision_of(self, place: Place) -> str | None:
        """The hub revision of the file at a place of :meth:`files`."""
        if place[0] != "concepts":
            return None
        index = place[1]
        assert isinstance(index, int)
        return self.concepts[index].revision

    def at(self, folder: Path) -> Recipe:
        """The same recipe with paths that count from another folder."""
        moved = self.model_copy()
        moved._folder = folder
        return moved

    def shareable(self) -> Recipe:
        """Without the folders that it writes to, which are nobody else's and must not be taken from strangers."""
        inversion = self.inversion.model_copy(update={"cache": bool(self.inversion.cache)})
        return self.model_copy(update={"inversion": inversion, "output": None})

    def error(self, place: Place, message: str) -> ConductorError:
        """``message`` with the file, line and field it is about."""
        line = self._document.line(place)
        return ConductorError(f"{self.source}{f', line {line}' if line else ''}: '{named(place)}': {message}")

    def run(
        self,
        pipe: ConceptConductorPipeline | None = None,
        progress: Callable[[StepReport], None] | None = None,
    ) -> Iterator[Picture]:
        """Make the pictures, one for each seed, as they are asked for.

        Args:
            pipe: a loaded pipeline; None loads the recipe's model.
            progress: told after each step.

        Raises:
            ConductorError: anything that does not fit, in one sentence.
        """
        from concept_conductor.rendering import Rendering

        return Rendering.prepare(self, pipe=pipe).pictures(progress)
