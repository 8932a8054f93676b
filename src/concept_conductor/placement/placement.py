"""Where objects are placed in an image, and the layout that goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from concept_conductor._deprecated import warn
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.images import as_rgb
from concept_conductor.io.tensors import MaskLike
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.layout import Layout
from concept_conductor.placement.objects import Add, Replace, check_apart, masks_of_objects, widened
from concept_conductor.settings import MARGIN


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
        object.__setattr__(self, "image", as_rgb(self.image))

    @classmethod
    def from_objects(
        cls,
        image: Image.Image,
        prompt: str,
        objects: Sequence[Replace | Add],
        grounder: Grounder | None = None,
        *,
        layout_prompt: str | None = None,
        margin: float = MARGIN,
        background: Literal["inversion", "noise"] = "inversion",
    ) -> Placed:
        """The placement of one object for each concept, with its layout: the image, with what is added pasted in.

        Args:
            image: the image to place objects in.
            prompt: what it shows.
            objects: what is replaced and what is added, one for each concept, in the concepts' order.
            grounder: finds what words name and what lies under points.
            layout_prompt: what the image shows with the cut-outs in it; needed where something is added. None for
                ``prompt``.
            margin: what may change reaches so far beyond an object that was found, or a cut-out, as a share of the
                image's shorter side: the new object seldom has that outline. Areas that were drawn stay as they are.
            background: as the attribute.

        Raises:
            ConductorError: an object that is not there, lies outside, or covers another.
        """
        image = as_rgb(image)
        if not 0 <= margin <= 1:
            raise ConductorError(f"margin= is a share of the image's shorter side, 0 to 1, but it is {margin:g}")
        if not objects:
            raise ConductorError("there is nothing to place; give an object for each concept, in the concepts' order")
        replaced = {number: one for number, one in enumerate(objects) if isinstance(one, Replace)}
        added = {number: one for number, one in enumerate(objects) if isinstance(one, Add)}
        masks = dict(zip(replaced, masks_of_objects(image, list(replaced.values()), grounder)))
        reference = image
        if added:
            if layout_prompt is None:
                raise ConductorError("where something is added, give layout_prompt=, what the image shows with it")
            collage = Collage(image, [one.placed(image.size) for one in added.values()])
            reference = collage.image
            masks |= zip(added, collage.masks)
        check_apart([masks[number] for number in range(len(objects))])
        for number in replaced:
            masks[number] = masks[number] & ~np.any([masks[other] for other in added], axis=0)
        reach = margin * min(image.size)
        areas = [
            masks[number] if isinstance(one, Replace) and one.drawn else widened(masks[number], reach)
            for number, one in enumerate(objects)
        ]
        layout = Layout(reference, layout_prompt or prompt, masks=[masks[number] for number in range(len(objects))])
        return Placed(cls(image, np.any(areas, axis=0), prompt, background), layout)

    @classmethod
    def of(cls, *args: Any, **kwargs: Any) -> Placed:
        """Deprecated; call :meth:`from_objects`."""
        warn("Placement.of()", "Placement.from_objects()")
        return cls.from_objects(*args, **kwargs)


class Placed(NamedTuple):
    """A placement with the layout that goes with it; a pipeline call takes both."""

    placement: Placement
    layout: Layout
