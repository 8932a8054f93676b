"""A recipe's placement: the image in which objects are replaced or added."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from concept_conductor.io.documents import FieldPath
from concept_conductor.layouts.fit import Fit
from concept_conductor.recipes.schema.fields import Name, Real, Text
from concept_conductor.settings import MARGIN, Settings


class ReplaceEntry(Settings):
    """An object of the image that a concept takes the place of.

    Attributes:
        mask: an image of the same size, white where it may change; or
        words: what the object is, "a dog" or "a dog on the right"; or
        point: ``[x, y]`` on it, in pixels of the image; or
        box: ``[left, top, right, bottom]`` in pixels of the image, all of which may change.
    """

    mask: Name | None = None
    words: Text | None = None
    point: tuple[Real, Real] | None = None
    box: tuple[Real, Real, Real, Real] | None = None

    @model_validator(mode="after")
    def _one_of_four(self) -> ReplaceEntry:
        if sum(place is not None for place in (self.mask, self.words, self.point, self.box)) != 1:
            raise ValueError("expected either 'mask', 'words', 'point' or 'box', exactly one of them")
        return self


class AddEntry(Settings):
    """An object that the image has not got.

    Attributes:
        image: an image of the concept, with transparency, or with
        mask: an image of the same size, white where the object is; or
        words: what is cut out of it, "a dog".
        box: ``[left, top, right, bottom]`` in pixels of the placement's image: it stands in it, as large as fits; or
        point: ``[x, y]`` in pixels of the placement's image, where its middle goes.
        size: its longer side in pixels of the placement's image, with ``point``; its own if not given.
        flip: mirrored, left to right.
        rotation: in degrees, clockwise.
    """

    image: Name
    mask: Name | None = None
    words: Text | None = None
    box: tuple[Real, Real, Real, Real] | None = None
    point: tuple[Real, Real] | None = None
    size: Annotated[Real, Field(gt=0)] | None = None
    flip: bool = False
    rotation: Real = 0.0

    @model_validator(mode="after")
    def _has_one_place(self) -> AddEntry:
        if self.mask is not None and self.words is not None:
            raise ValueError("expected 'mask' or 'words' to cut it out by, not both")
        if (self.box is None) == (self.point is None):
            raise ValueError("expected either 'box' or 'point' (with 'size'), where it goes, exactly one of the two")
        if self.size is not None and self.point is None:
            raise ValueError("a 'size' goes with 'point'; in a 'box' it is as large as fits")
        return self


class ObjectEntry(Settings):
    """What is done for one concept.

    Attributes:
        replace: an object that is there; or
        add: one that is not.
    """

    replace: ReplaceEntry | None = None
    add: AddEntry | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> ObjectEntry:
        if (self.replace is None) == (self.add is None):
            raise ValueError("expected either 'replace' or 'add', exactly one of the two")
        return self

    def files(self) -> dict[FieldPath, str]:
        """Return the files that it names: place in this entry -> name as written."""
        found: dict[FieldPath, str] = {}
        if self.replace is not None and self.replace.mask is not None:
            found["replace", "mask"] = self.replace.mask
        if self.add is not None:
            found["add", "image"] = self.add.image
            if self.add.mask is not None:
                found["add", "mask"] = self.add.mask
        return found


class PlacementEntry(Settings):
    """Where objects are replaced or added in a given image.

    Attributes:
        image: the image.
        objects: what is replaced or added, one for each concept; these are the layout too. Or
        mask: the area that may change, white, for a layout of its own.
        prompt: what the image shows; needed with ``objects``, else the layout's prompt if not given.
        margin: how far beyond objects that are found the image may change, as a share of its shorter side.
        background: where the unchanged area's latents come from.
        fit: "crop" or "pad": what is done with the image in a run of other proportions.
    """

    image: Name
    objects: Annotated[tuple[ObjectEntry, ...], Field(min_length=1, max_length=64)] | None = None
    mask: Name | None = None
    prompt: Text | None = None
    margin: Annotated[Real, Field(ge=0, le=1)] = MARGIN
    background: Literal["inversion", "noise"] = "inversion"
    fit: Fit = "crop"

    @model_validator(mode="after")
    def _objects_or_mask(self) -> PlacementEntry:
        if (self.objects is None) == (self.mask is None):
            raise ValueError(
                "expected either 'objects' (what to replace or add, one for each concept) or 'mask' (with a layout of "
                "its own), exactly one of the two"
            )
        if self.objects is not None and self.prompt is None:
            raise ValueError("with 'objects' the placement needs 'prompt', what the image shows as it is")
        return self

    def files(self) -> dict[FieldPath, str]:
        """Return the files that it names: place in this entry -> name as written."""
        named: dict[FieldPath, str] = {("image",): self.image}
        if self.mask is not None:
            named["mask",] = self.mask
        for index, one in enumerate(self.objects or ()):
            named |= {("objects", index, *place): name for place, name in one.files().items()}
        return named
