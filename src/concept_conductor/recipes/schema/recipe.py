"""The recipe itself."""

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
from concept_conductor.recipes.schema.collage import collage_document, with_collage
from concept_conductor.recipes.schema.concept import ConceptEntry
from concept_conductor.recipes.schema.fields import Count, Name, Real, Seeds, Side, Text, device_name, switched
from concept_conductor.recipes.schema.layout import LayoutEntry
from concept_conductor.recipes.schema.placement import PlacementEntry
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement, Settings


class Recipe(Settings):
    """Everything that decides an image. Paths count from the recipe's folder; None is the pipeline's own default.

    Attributes:
        model: "mini", a diffusers folder, a ``.safetensors`` or ``.ckpt`` checkpoint, or a hub id.
        dtype: "auto" is float16 on CUDA, float32 elsewhere.
        device: "auto" is CUDA where there is one.
        prompt, negative_prompt: the base prompt, and what to steer away from.
        prompt_2, negative_prompt_2: for SDXL's second text encoder, where it shall read something else.
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
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    device: Annotated[Text, AfterValidator(device_name)] = "auto"
    prompt: Text
    negative_prompt: Text = ""
    prompt_2: Text | None = None
    negative_prompt_2: Text | None = None
    concepts: tuple[ConceptEntry, ...] = ()
    placement: PlacementEntry | None = None
    layout: Annotated[LayoutEntry | None, Field(validate_default=True)] = None
    width: Side | None = None
    height: Side | None = None
    steps: Annotated[Count, Field(le=1000)] | None = None
    guidance_scale: Annotated[Real, Field(ge=1)] | None = None
    seeds: Seeds = (0,)
    alignment: Annotated[Alignment | None, BeforeValidator(switched)] = Alignment()
    injection: Annotated[Injection | None, BeforeValidator(switched)] = Injection()
    refinement: Annotated[Refinement | None, BeforeValidator(switched)] = Refinement()
    inversion: Inversion = Inversion()
    paths_per_forward: Count | None = None
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
        """A recipe whose paths count from ``folder``; a collage's file, if it names one, is read into it."""
        document = with_collage(document, folder)
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

    def files(self) -> dict[FieldPath, str]:
        """Every file it names, but for the model: place in the recipe -> name as written."""
        found: dict[FieldPath, str] = {}
        for index, entry in enumerate(self.concepts):
            found |= {("concepts", index, *place): name for place, name in entry.files().items()}
        if self.layout is not None:
            found |= {("layout", *place): name for place, name in self.layout.files().items()}
        if self.placement is not None:
            found |= {("placement", *place): name for place, name in self.placement.files().items()}
        return found

    def revision_of(self, place: FieldPath) -> str | None:
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

    def error(self, place: FieldPath, message: str) -> ConductorError:
        """``message`` with the file, line and field it is about."""
        line = self._document.line(place)
        return ConductorError(f"{self.source}{f', line {line}' if line else ''}: '{named(place)}': {message}")

    @contextmanager
    def blaming(self, *place: str | int) -> Iterator[None]:
        """Errors of the block name this place of the recipe."""
        try:
            yield
        except ConductorError as error:
            raise self.error(place, str(error)) from error

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Deprecated; call :func:`concept_conductor.recipes.runner.generate` with this recipe."""
        warn("Recipe.run()", "concept_conductor.generate(recipe, ...)")
        # the runner stands above the recipe, which is data: found by name until this alias goes
        return importlib.import_module("concept_conductor.recipes.runner").generate(self, *args, **kwargs)


def collage_recipe(path: str | Path, model: str) -> Recipe:
    """A recipe whose layout is the collage in a file, to draw it by itself.

    Args:
        path: the collage's file.
        model: what generates its background, where it has a prompt.

    Raises:
        DocumentError: it cannot be read or does not fit; each sentence names file, line and field.
    """
    return Recipe.from_document(collage_document(path, model), Path(path).parent)
