"""A recipe's collage: cut-outs on a background, in the recipe itself or in a file of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import Document, FieldPath, read_document
from concept_conductor.io.ordinary import is_ordinary
from concept_conductor.recipes.schema.fields import Name, Real, Seed, Side, Text
from concept_conductor.settings import Settings

MOST_CUTOUTS = 64

Size = tuple[Side, Side]
"""Width and height in pixels."""
BoxOf = tuple[Real, Real, Real, Real]
"""Left, top, right, bottom in pixels."""


def _known_colour(name: str) -> str:
    from concept_conductor.layouts.collage import colour

    colour(name)
    return name


class BackgroundEntry(Settings):
    """What lies behind cut-outs; exactly one of image, colour and prompt.

    Attributes:
        image: an image.
        colour: such as "skyblue" or "#87b5e0".
        prompt: what the model generates it from, with
        seed: of its noise.
    """

    image: Name | None = None
    colour: Annotated[Text, AfterValidator(_known_colour)] | None = None
    prompt: Text | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_of_three(self) -> BackgroundEntry:
        if sum(given is not None for given in (self.image, self.colour, self.prompt)) != 1:
            raise ValueError("expected either 'image', 'colour' or 'prompt' (to generate it), exactly one of the three")
        return self


class CutoutEntry(Settings):
    """One cut-out; see :class:`.Cutout`.

    Attributes:
        image: with transparency, or with
        mask: white where the object is; or
        words: what is to be cut out of it, "a dog".
        position: where its middle goes, ``[x, y]`` in pixels of the collage; where it is in ``image`` if not given.
        box: ``[left, top, right, bottom]`` in pixels of the collage that it is fitted into, instead of position and
            scale.
        scale, rotation, flip, z, scenery: as for :class:`.Cutout`.
    """

    image: Name
    mask: Name | None = None
    words: Text | None = None
    position: tuple[Real, Real] | None = None
    box: BoxOf | None = None
    scale: Annotated[Real, Field(gt=0)] | None = None
    rotation: Real = 0.0
    flip: bool = False
    z: Annotated[int, Field(strict=True, ge=-10_000, le=10_000)] = 0
    scenery: bool = False

    @model_validator(mode="after")
    def _no_two_for_one(self) -> CutoutEntry:
        if self.mask is not None and self.words is not None:
            raise ValueError("expected 'mask' or 'words' to cut it out by, not both")
        if self.box is not None:
            if self.position is not None or self.scale is not None:
                raise ValueError("expected either 'box', or 'position' and 'scale'")
            left, top, right, bottom = self.box
            if not (left < right and top < bottom):
                raise ValueError("its 'box' is empty; expected [left, top, right, bottom], left < right, top < bottom")
        return self


class CollageEntry(Settings):
    """A collage; see :class:`.Collage`.

    Attributes:
        background: an image, a colour, or generated.
        size: ``[width, height]`` in pixels; needed with a colour.
        cutouts: for each concept one, in the concepts' order, and scenery.
    """

    background: BackgroundEntry
    size: Size | None = None
    cutouts: Annotated[tuple[CutoutEntry, ...], Field(min_length=1, max_length=MOST_CUTOUTS)]

    @model_validator(mode="after")
    def _has_a_size(self) -> CollageEntry:
        if self.background.colour is not None and self.size is None:
            raise ValueError("a colour has no size of its own; give 'size: [width, height]' in pixels")
        return self

    @property
    def objects(self) -> int:
        """Count the cut-outs that concepts take the place of."""
        return sum(not cutout.scenery for cutout in self.cutouts)

    def files(self) -> dict[FieldPath, str]:
        """Return the files that it names: place in this entry -> name as written."""
        found: dict[FieldPath, str] = {}
        if self.background.image is not None:
            found["background", "image"] = self.background.image
        for index, cutout in enumerate(self.cutouts):
            found["cutouts", index, "image"] = cutout.image
            if cutout.mask is not None:
                found["cutouts", index, "mask"] = cutout.mask
        return found


def with_collage(document: Document, folder: Path) -> Document:
    """Return a recipe's document with another file's collage written out in it, so that it needs that file no more.

    Args:
        document: of a recipe.
        folder: what its paths count from.

    Raises:
        ConductorError: the collage's file cannot be read or does not fit; the sentence names its line.
    """
    layout = document.data.get("layout") if isinstance(document.data, dict) else None
    if not isinstance(layout, dict) or not isinstance(name := layout.get("collage"), str):
        return document
    file = folder / name
    if not is_ordinary(file):
        line = document.line(("layout", "collage"))
        where = f"{document.source}, line {line}" if line else document.source
        raise ConductorError(
            f"{where}: 'layout.collage': there is no file '{file}'; expected a collage's file, or its fields here"
        )
    collage = read_document(file)
    collage.validated(CollageEntry)
    _seen_from(Path(name).parent, collage.data)
    data = {**document.data, "layout": {**layout, "collage": collage.data}}
    return Document(document.source, data, document.lines)


def collage_document(path: str | Path, model: str) -> Document:
    """Return a recipe's document whose layout is the collage of a file, to draw it by itself.

    Raises:
        DocumentError: it cannot be read or does not fit; each sentence names file, line and field.
    """
    collage = read_document(path)
    collage.validated(CollageEntry)
    lines: dict[FieldPath, int] = {("layout", "collage", *place): line for place, line in collage.lines.items()}
    layout = {"collage": collage.data, "prompt": ""}
    return Document(collage.source, {"model": model, "prompt": "", "layout": layout}, lines)


def _seen_from(own: Path, data: dict[str, Any]) -> None:
    """Let a collage's file names count from where ``own``, its folder, counts from.

    They are not simplified: ``link/../dog.png`` is another file than ``dog.png`` where ``link`` leads elsewhere.
    """
    for part in _parts(data):
        for field in ("image", "mask"):
            if part.get(field) is not None:
                part[field] = (own / part[field]).as_posix()


def _parts(data: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield data["background"]
    yield from data["cutouts"]
