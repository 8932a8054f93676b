"""The recipe itself: pure data. What opens its files and runs it is in the modules beside this package."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationInfo, field_validator

from concept_conductor._deprecated import warn
from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import Document, FieldPath, named, read_document
from concept_conductor.io.files import check_place
from concept_conductor.recipes.schema.collage import collage_document, with_collage
from concept_conductor.recipes.schema.concept import ConceptEntry
from concept_conductor.recipes.schema.fields import (
    Count,
    Guidance,
    Name,
    Seeds,
    Side,
    Text,
    check_name,
    device_name,
    switched,
)
from concept_conductor.recipes.schema.layout import LayoutEntry
from concept_conductor.recipes.schema.placement import PlacementEntry
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement, Settings

MOST_PATHS = 1024
"""Paths of a run; a recipe with as many concepts would run for days."""


def _with_possible_cache(inversion: Inversion) -> Inversion:
    if isinstance(inversion.cache, Path):
        check_name(str(inversion.cache))
    return inversion


class RecipeError(ConductorError):
    """What does not fit in a recipe, with file, line and field."""


class Recipe(Settings):
    """Everything that decides an image. Paths count from the recipe's folder; None is the pipeline's own default.

    Attributes:
        model: "mini", a diffusers folder, a ``.safetensors`` or ``.ckpt`` checkpoint, or a hub id.
        prediction_type: what the model's U-Net predicts, where its own files are wrong or silent about it.
        dtype: "auto" is float16 on CUDA, float32 elsewhere.
        device: "auto" is CUDA where there is one.
        prompt, negative_prompt: the base prompt, and what to steer away from; without it an empty text, or zeros
            where the model has it so.
        prompt_2, negative_prompt_2: for SDXL's second text encoder, where it shall read something else.
        chunk_prompts: encode prompts that are longer than the text encoder reads in parts, instead of cutting them.
        concepts, layout, placement: see there; a placement with objects is the layout too.
        width, height: in pixels.
        steps, guidance_scale, paths_per_forward: as for the pipeline.
        offload: keep only the network at work on the GPU.
        vae_tiling: encode and decode in tiles.
        seeds: an image for each.
        alignment, injection, refinement: the method's parts; ``off`` switches one off.
        inversion: of the layout reference.
        output: folder for the results.
    """

    model: Name = "mini"
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: Annotated[Text, AfterValidator(device_name)] = "auto"
    prompt: Text
    negative_prompt: Text | None = None
    prompt_2: Text | None = None
    negative_prompt_2: Text | None = None
    chunk_prompts: bool = False
    concepts: tuple[ConceptEntry, ...] = ()
    placement: PlacementEntry | None = None
    layout: Annotated[LayoutEntry | None, Field(validate_default=True)] = None
    width: Side | None = None
    height: Side | None = None
    steps: Annotated[Count, Field(le=1000)] | None = None
    guidance_scale: Guidance | None = None
    seeds: Seeds = (0,)
    alignment: Annotated[Alignment | None, BeforeValidator(switched)] = Alignment()
    injection: Annotated[Injection | None, BeforeValidator(switched)] = Injection()
    refinement: Annotated[Refinement | None, BeforeValidator(switched)] = Refinement()
    inversion: Annotated[Inversion, AfterValidator(_with_possible_cache)] = Inversion()
    paths_per_forward: Annotated[Count, Field(le=MOST_PATHS)] | None = None
    offload: bool = False
    vae_tiling: bool = False
    output: Name | None = None

    _document: Document = PrivateAttr(default_factory=lambda: Document("the recipe", {}))
    _folder: Path = PrivateAttr(default_factory=Path)

    @field_validator("placement")
    @classmethod
    def _an_object_for_each_concept(
        cls, placement: PlacementEntry | None, info: ValidationInfo
    ) -> PlacementEntry | None:
        if placement is None or placement.objects is None or "concepts" not in info.data:
            return placement
        objects, concepts = len(placement.objects), len(info.data["concepts"])
        if objects != concepts:
            raise ValueError(
                f"{objects} objects for {concepts} concepts; give one for each concept, in the concepts' order"
            )
        return placement

    @field_validator("layout")
    @classmethod
    def _fits_the_concepts(cls, layout: LayoutEntry | None, info: ValidationInfo) -> LayoutEntry | None:
        concepts = info.data.get("concepts", ())
        placement = info.data.get("placement")
        if placement is not None and placement.objects is not None:
            if layout is not None:
                raise ValueError("the placement's objects are the layout already; leave one of the two out")
            return layout
        if layout is None:
            if concepts and "placement" in info.data:
                raise ValueError(
                    "concepts need a layout; give its 'image', 'prompt', and 'masks', 'points', 'boxes' or 'words' (or "
                    "a 'collage', 'generated' with 'words', or 'boxes' with 'words')"
                )
            return layout
        places, kind = layout.places()
        if "concepts" in info.data and concepts and places != len(concepts):
            raise ValueError(
                f"{places} {kind} for {len(concepts)} concepts; give one for each concept, in the concepts' order"
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
        """Return a recipe whose paths count from ``folder``; a collage's file, if it names one, is read into it."""
        check_place(folder)
        document = with_collage(document, folder)
        recipe = document.validated(cls)
        recipe._document, recipe._folder = document, folder
        return recipe

    @property
    def source(self) -> str:
        """Name the file that it came from, for messages."""
        return self._document.source

    @property
    def folder(self) -> Path:
        """Return the folder that its paths count from."""
        return self._folder

    def files(self) -> dict[FieldPath, str]:
        """Return every file that it names, but for the model: place in the recipe -> name as written."""
        found: dict[FieldPath, str] = {}
        for index, entry in enumerate(self.concepts):
            found |= {("concepts", index, *place): name for place, name in entry.files().items()}
        if self.layout is not None:
            found |= {("layout", *place): name for place, name in self.layout.files().items()}
        if self.placement is not None:
            found |= {("placement", *place): name for place, name in self.placement.files().items()}
        return found

    def texts(self) -> list[str]:
        """Return every prompt in it."""
        found = [self.prompt, self.negative_prompt, self.prompt_2, self.negative_prompt_2]
        found += [text for entry in self.concepts for text in (entry.prompt, entry.prompt_2)]
        found += [] if self.layout is None else self.layout.texts()
        found += [] if self.placement is None else [self.placement.prompt]
        return [text for text in found if text is not None]

    def revision_of(self, place: FieldPath) -> str | None:
        """Return the hub revision of the file at a place of :meth:`files`."""
        if place[0] != "concepts":
            return None
        index = place[1]
        assert isinstance(index, int)
        return self.concepts[index].revision

    def at(self, folder: Path) -> Recipe:
        """Return the same recipe with paths that count from another folder."""
        moved = self.model_copy()
        moved._folder = folder
        return moved

    def shareable(self) -> Recipe:
        """Return it without the folders that it writes to, which must not be taken from strangers."""
        inversion = self.inversion.model_copy(update={"cache": bool(self.inversion.cache)})
        return self.model_copy(update={"inversion": inversion, "output": None})

    def error(self, place: FieldPath, message: str) -> RecipeError:
        """Return an error that says ``message`` with the file, line and field that it is about."""
        line = self._document.line(place)
        return RecipeError(f"{self.source}{f', line {line}' if line else ''}: '{named(place)}': {message}")

    @contextmanager
    def blaming(self, *place: str | int) -> Iterator[None]:
        """Name this place of the recipe in the block's errors, unless they name one."""
        try:
            yield
        except RecipeError:
            raise
        except ConductorError as error:
            raise self.error(place, str(error)) from error

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Deprecated; call :func:`concept_conductor.recipes.runner.generate` with this recipe."""
        warn("Recipe.run()", "concept_conductor.generate(recipe, ...)")
        # the runner stands above the recipe, which is data: found by name until this alias goes
        return importlib.import_module("concept_conductor.recipes.runner").generate(self, *args, **kwargs)


def collage_recipe(path: str | Path, model: str) -> Recipe:
    """Return a recipe whose layout is the collage in a file, to draw it by itself.

    Args:
        path: the collage's file.
        model: what generates its background, where it has a prompt.

    Raises:
        DocumentError: it cannot be read or does not fit; each sentence names file, line and field.
    """
    return Recipe.from_document(collage_document(path, model), Path(path).parent)
