"""Where objects are placed in an image, and the layout that goes with it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from concept_conductor._deprecated import warn
from concept_conductor.errors import ConductorError
from concept_conductor.grounding.grounder import Grounder
from concept_conductor.io.tensors import ImageLike, MaskLike, open_image, open_mask
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.fit import Fit, describe_fit, fit_image, fit_mask, window_of
from concept_conductor.layouts.layout import Layout
from concept_conductor.layouts.masks import checked_mask
from concept_conductor.placement.objects import Add, Replace, check_apart, masks_of_objects, widened
from concept_conductor.settings import MARGIN

logger = logging.getLogger(__name__)

Outside = Literal["inversion", "noise"]
"""Where the latents outside of a placement's mask come from."""


@dataclass(frozen=True)
class Placement:
    """Where objects are placed in an image ("Object Placement" in the paper).

    Attributes:
        image: the image to place objects in: a PIL image, the path of a file, or an array. Afterwards RGB, upright.
        mask: the area that may change, white on black: a PIL image, a path, or an array ``(h, w)``, bool, 0..255 in
            whole numbers or 0..1 in others. Afterwards opened, in the image's proportions.
        prompt: what the image shows; None for the layout's prompt.
        background: outside the mask latents come from the image's DDIM inversion ("inversion", the paper), or
            from its clean latents with the run's initial noise added ("noise", the published implementation).
        fit: what is done in a run of other proportions, as for :class:`.Layout`: "crop" or "pad".

    Raises:
        ConductorError: the image or mask cannot be read, or holds numbers of another range, or the mask has other
            proportions than the image.
    """

    image: Image.Image
    mask: MaskLike
    prompt: str | None = None
    background: Outside = "inversion"
    fit: Fit = "crop"

    if TYPE_CHECKING:  # it takes more kinds of images than it holds

        def __init__(
            self,
            image: ImageLike,
            mask: MaskLike,
            prompt: str | None = None,
            background: Outside = "inversion",
            fit: Fit = "crop",
        ) -> None: ...

    def __post_init__(self) -> None:
        for name, choices in (("background", get_args(Outside)), ("fit", get_args(Fit))):
            if (given := getattr(self, name)) not in choices:
                raise ConductorError(f"the placement's {name} must be {' or '.join(map(repr, choices))}, not {given!r}")
        if not isinstance(self.prompt, str | None):
            raise ConductorError(
                f"the placement's prompt must be text that says what its image shows, but it is {self.prompt!r:.60}"
            )
        object.__setattr__(self, "image", open_image(self.image, "the placement's image"))
        object.__setattr__(self, "mask", checked_mask(self.mask, self.image, "the placement's mask"))

    def fitted(self, size: tuple[int, int]) -> Placement:
        """Return the placement in the proportions of a run, cropped or padded as ``fit`` says, which is logged.

        Args:
            size: width and height of the run in pixels.

        Raises:
            ConductorError: padded, the image would be too large.
        """
        window = window_of(self.image.size, size, self.fit)
        if window == (0, 0, *self.image.size):
            return self
        logger.warning("the placement's image %s", describe_fit(self.image.size, window, size))
        mask = fit_mask(open_mask(self.mask), self.image.size, window)
        return replace(self, image=fit_image(self.image, window), mask=mask)

    @classmethod
    def from_objects(
        cls,
        image: ImageLike,
        prompt: str,
        objects: Sequence[Replace | Add],
        grounder: Grounder | None = None,
        *,
        layout_prompt: str | None = None,
        margin: float = MARGIN,
        background: Outside = "inversion",
        fit: Fit = "crop",
    ) -> Placed:
        """Place one object for each concept; its layout is the image, with what is added pasted in.

        Args:
            image: the image to place objects in.
            prompt: what it shows.
            objects: what is replaced and what is added, one for each concept, in the concepts' order.
            grounder: finds what words name and what lies under points.
            layout_prompt: what the image shows with the cut-outs in it; needed where something is added. None for
                ``prompt``.
            margin: what may change reaches so far beyond an object that was found, or a cut-out, as a share of the
                image's shorter side: the new object seldom has that outline. Areas that were drawn stay as they are.
            background, fit: as the attributes.

        Raises:
            ConductorError: an object that is not there, lies outside, or covers another.
        """
        image = open_image(image, "the placement's image")
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
        own = [masks[number] for number in range(len(objects))]
        layout = Layout(reference, layout_prompt or prompt, masks=own, fit=fit)
        return Placed(cls(image, np.any(areas, axis=0), prompt, background, fit), layout)

    @classmethod
    def of(cls, *args: Any, **kwargs: Any) -> Placed:
        """Deprecated; call :meth:`from_objects`."""
        warn("Placement.of()", "Placement.from_objects()")
        return cls.from_objects(*args, **kwargs)


class Placed(NamedTuple):
    """A placement with the layout that goes with it; a pipeline call takes both."""

    placement: Placement
    layout: Layout
