"""A recipe's layout: where it comes from, and where in it the concepts are."""

from __future__ import annotations

from pydantic import model_validator

from concept_conductor.documents import Place
from concept_conductor.recipe.fields import Name, Real, Text
from concept_conductor.settings import Settings


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

    def files(self) -> dict[Place, str]:
        """The files that it names: place in this entry -> name as written."""
        return {("image",): self.image} | {("masks", index): name for index, name in enumerate(self.masks or ())}
