"""A recipe's placement: the picture in which objects are replaced or added."""

from __future__ import annotations

from typing import Literal

from concept_conductor.documents import Place
from concept_conductor.recipe.fields import Name, Text
from concept_conductor.settings import Settings


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

    def files(self) -> dict[Place, str]:
        """The files that it names: place in this entry -> name as written."""
        return {("image",): self.image, ("mask",): self.mask}
