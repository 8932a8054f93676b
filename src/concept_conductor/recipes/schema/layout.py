"""A recipe's layout: where it comes from, and where in it the concepts are."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from concept_conductor.io.documents import FieldPath
from concept_conductor.layouts.fit import Fit
from concept_conductor.layouts.mask_edit import MaskEdit
from concept_conductor.recipes.schema.collage import BackgroundEntry, BoxOf, CollageEntry, Size
from concept_conductor.recipes.schema.fields import Name, Real, Text, switched
from concept_conductor.recipes.schema.generation import GenerationEntry
from concept_conductor.settings import Fraction, Settings

PLACES = ("masks", "points", "boxes", "words")


def _fields(value: Any) -> Any:
    """Refuse a file's name: :func:`.with_collage` has read it by now, unless a stranger's image holds it."""
    if isinstance(value, str):
        raise ValueError(f"expected the collage's fields 'background' and 'cutouts' here, but it is '{value[:60]}'")
    return value


class LayoutEntry(Settings):
    """The layout reference: an image, a collage, generated, or made from boxes.

    Attributes:
        image: image with the wanted arrangement; or
        collage: cut-outs on a background, or a file that says so; or
        generated: by the recipe's model or another; or, with ``boxes`` and ``words``, none of these.
        prompt: what it shows; the recipe's own prompt for layouts that are generated.
        masks: an image per concept, white inside; or
        points: ``[x, y]`` per concept, in pixels of ``image``; or
        boxes: ``[left, top, right, bottom]`` per concept, in pixels of the layout image; or
        words: what each concept takes the place of, "a dog" or "a dog on the right"; with ``boxes``, what is in each.
        threshold: how sure an object that ``words`` name must be, 0..1.
        background, size: of a layout made from boxes; the size in pixels, the run's if not given.
        edit: what is done to the masks.
        fit: "crop" or "pad": what is done with the image in a run of other proportions.
    """

    image: Name | None = None
    collage: Annotated[CollageEntry, BeforeValidator(_fields)] | None = None
    generated: Annotated[GenerationEntry | None, BeforeValidator(switched)] = None
    prompt: Text | None = None
    masks: tuple[Name, ...] | None = None
    points: tuple[tuple[Real, Real], ...] | None = None
    boxes: tuple[BoxOf, ...] | None = None
    words: tuple[Text, ...] | None = None
    threshold: Fraction | None = None
    background: BackgroundEntry | None = None
    size: Size | None = None
    edit: MaskEdit | None = None
    fit: Fit = "crop"

    @model_validator(mode="after")
    def _fits_together(self) -> LayoutEntry:
        given = [name for name in PLACES if getattr(self, name) is not None]
        if self.collage is not None:
            self._without("a collage has its own masks", "image", "generated", "background", "size", *PLACES)
        elif self.from_boxes:
            self._without("a layout made from boxes has its own masks", "masks", "points")
        elif self.generated is not None:
            self._without("in a generated layout concepts are found by 'words'", "image", "masks", "points", "boxes")
            if self.words is None:
                raise ValueError(
                    "a generated layout needs 'words': what each concept takes the place of, [a dog, a cat]"
                )
        elif self.image is None and given in ([], ["masks"], ["points"], ["words"]):
            raise ValueError(
                "expected an 'image', a 'collage', 'generated' with 'words', or 'boxes' with 'words'; there is none"
            )
        elif given not in ([name] for name in PLACES) and given != ["boxes", "words"]:
            raise ValueError(
                "expected either 'masks', 'points', 'boxes' or 'words', one for each concept, exactly one of them (or "
                "'boxes' with 'words')"
            )
        elif self.image is None:
            raise ValueError("boxes without an 'image' need 'words': what is to be in each, [a dog, a cat]")
        if not self.from_boxes:
            self._without("only a layout made from boxes and words has them", "background", "size")
        elif self.words is not None and self.boxes is not None and len(self.words) != len(self.boxes):
            raise ValueError(f"{len(self.words)} words for {len(self.boxes)} boxes; give one for each box")
        if self.threshold is not None and self.words is None:
            raise ValueError("a 'threshold' is for 'words'; there are none here")
        if self.prompt is None and not (self.from_boxes or self.generated is not None):
            raise ValueError("its 'prompt' is missing; say what the layout image shows")
        return self

    def _without(self, reason: str, *fields: str) -> None:
        for name in fields:
            if getattr(self, name) is not None:
                raise ValueError(f"{reason}; leave out '{name}'")

    @property
    def from_boxes(self) -> bool:
        """Tell whether it is made from boxes and words alone."""
        return self.image is None and self.boxes is not None and self.words is not None

    @property
    def kind(self) -> str:
        """Name the field that says where the concepts are."""
        if self.collage is not None:
            return "collage"
        return next(name for name in PLACES if getattr(self, name) is not None)

    def places(self) -> tuple[int, str]:
        """Return how many places for concepts it has, and what they are called."""
        if self.collage is not None:
            return self.collage.objects, "cut-outs that are no scenery"
        return len(getattr(self, self.kind)), self.kind

    def texts(self) -> list[str | None]:
        """Return the prompts of the layout and of the images that it is generated from."""
        background = self.background if self.collage is None else self.collage.background
        found = [self.prompt, None if background is None else background.prompt]
        return found if self.generated is None else [*found, self.generated.prompt, self.generated.negative_prompt]

    def files(self) -> dict[FieldPath, str]:
        """Return the files that it names, and another model: place in this entry -> name as written."""
        found: dict[FieldPath, str] = {} if self.image is None else {("image",): self.image}
        found |= {("masks", index): name for index, name in enumerate(self.masks or ())}
        for field, entry in (("collage", self.collage), ("generated", self.generated)):
            if entry is not None:
                found |= {(field, *place): name for place, name in entry.files().items()}
        if self.background is not None and self.background.image is not None:
            found["background", "image"] = self.background.image
        return found
