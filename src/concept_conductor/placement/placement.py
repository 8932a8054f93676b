"""Where objects are placed in an image, and the layout that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.images import as_picture
from concept_conductor.layout import Layout, MaskLike
from concept_conductor.placement.objects import Replace, grown, masks_of_objects
from concept_conductor.settings import MARGIN

if TYPE_CHECKING:
    from concept_conductor.evaluation.grounding import Grounder


@dataclass(frozen=True)
class Placement:
    """Where objects are placed in an image ("Object Placement" in the paper).

    Attributes:
        image: the image to place objects in.
        mask: the area that may change, white on black.
        prompt: what the image shows; None for the layout's prompt.
        background: outside the mask latents come from the image's DDIM inversion ("inversion", the paper), or
            from its clean latents with the run's initial noise added ("noise", the published implementation).
    """

    image: Image.Image
    mask: MaskLike
    prompt: str | None = None
    background: Literal["inversion", "noise"] = "inversion"

    def __post_init__(self) -> None:
        if self.background not in ("inversion", "noise"):
            raise ConductorError(f"the placement's background must be 'inversion' or 'noise', not {self.background!r}")
        object.__setattr__(self, "image", as_picture(self.image))

    @classmethod
    def of(
        cls,
        image: Image.Image,
        prompt: str,
        objects: Sequence[Replace],
        grounder: Grounder | None = None,
        *,
        margin: float = MARGIN,
        background: Literal["inversion", "noise"] = "inversion",
    ) -> Placed:
        """The placement of one object for each concept, with its layout; the image is its own layout reference.

        Args:
            image: the image to place objects in.
            prompt: what it shows.
            objects: one for each concept, in the concepts' order.
            grounder: finds what words name and what lies under points.
            margin: what may change reaches so far beyond an object that was found, as a share of the image's shorter
                side; the new object seldom has the old one's outline. Areas that were drawn stay as they are.
            background: as the attribute.

        Raises:
            ConductorError: an object that is not there, lies outside, or covers another.
        """
        image = as_picture(image)
        masks = masks_of_objects(image, objects, grounder)
        reach = round(margin * min(image.size))
        areas = [mask if one.drawn else grown(mask, reach) for one, mask in zip(objects, masks, strict=True)]
        return Placed(cls(image, np.any(areas, axis=0), prompt, background), Layout(image, prompt, masks=masks))


class Placed(NamedTuple):
    """A placement with the layout that goes with it; a pipeline call takes both."""

    placement: Placement
    layout: Layout
