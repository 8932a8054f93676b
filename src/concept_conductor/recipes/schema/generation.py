"""How images are generated for a recipe's layout."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from concept_conductor.io.documents import FieldPath
from concept_conductor.recipes.schema.fields import Count, Guidance, Name, Seeds, Side, Text
from concept_conductor.settings import Settings


class GenerationEntry(Settings):
    """How images are generated; what is not given is the recipe's.

    Attributes:
        prompt: what a generated layout shows; the recipe's own prompt if not given.
        model: another checkpoint: "mini", a diffusers folder, a checkpoint file, or a hub id.
        seeds: of the candidates, tried in this order.
        negative_prompt, steps, guidance_scale: as in the recipe.
        width, height: in pixels; with another model its own size if not given.
    """

    prompt: Text | None = None
    model: Name | None = None
    seeds: Seeds = (0, 1, 2, 3, 4, 5, 6, 7)
    negative_prompt: Text | None = None
    steps: Annotated[Count, Field(le=1000)] | None = None
    guidance_scale: Guidance | None = None
    width: Side | None = None
    height: Side | None = None

    def files(self) -> dict[FieldPath, str]:
        """Return the model, if it is another: place in this entry -> name as written."""
        return {} if self.model is None else {("model",): self.model}
