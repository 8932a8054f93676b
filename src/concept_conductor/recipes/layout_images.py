"""The images that are generated for a recipe's layout, by the recipe's model or another one."""

from __future__ import annotations

from functools import cached_property

from PIL import Image

from concept_conductor.layouts.layout import Layout
from concept_conductor.pipeline.text_to_image import PlainImages
from concept_conductor.recipes.model import RecipeModel, load_pipeline
from concept_conductor.recipes.schema.generation import GenerationEntry
from concept_conductor.recipes.section import Section


class LayoutImages:
    """A :class:`.TextToImage` that loads its model when the first image is asked for.

    Args:
        section: the recipe's layout.
        model: the recipe's own, which generates images unless the layout names another, and has the settings that the
            layout does not give.
    """

    def __init__(self, section: Section, model: RecipeModel) -> None:
        self.section, self.model = section, model

    def __call__(self, prompt: str, seed: int) -> Image.Image:
        return self._images(prompt, seed)

    @property
    def run_size(self) -> tuple[int, int]:
        """Return the run's width and height, which the model decides where the recipe does not."""
        recipe = self.model.recipe
        assert recipe.width is not None and recipe.height is not None  # as_used filled them
        return recipe.width, recipe.height

    def generation(self, layout: Layout) -> GenerationEntry | None:
        """Return how ``layout`` was generated, with every field filled; None where nothing was, or only a background.

        A background's prompt and seed stand in its collage; the rest is the recipe's own.
        """
        assert self.section.recipe.layout is not None
        if "_images" not in self.__dict__ or self.section.recipe.layout.collage is not None:
            return None
        names = ("steps", "guidance_scale", "negative_prompt", "width", "height")
        used = {name: getattr(self._images, name) for name in names}
        return self._entry.model_copy(update=used | {"seeds": layout.seeds or self._entry.seeds})

    @property
    def _entry(self) -> GenerationEntry:
        layout = self.section.recipe.layout
        assert layout is not None
        return layout.generated or GenerationEntry()

    @cached_property
    def _images(self) -> PlainImages:
        """Load the model; None for a size is its own."""
        entry, recipe = self._entry, self.model.recipe
        width: int | None
        height: int | None
        if entry.model is None:
            pipe, (width, height) = self.model.pipe, self.run_size
        else:
            place = self.section["generated"]["model"]
            with place.blaming():
                where = self.section.located[place.place]
                other = recipe.model_copy(update={"prediction_type": None})  # which is the recipe's own model's
                pipe = load_pipeline(where, other, fetch=self.section.may_fetch(entry.model))
            width = height = None
        assert recipe.steps is not None and recipe.guidance_scale is not None
        return PlainImages(
            pipe,
            steps=entry.steps or recipe.steps,
            guidance_scale=entry.guidance_scale or recipe.guidance_scale,
            negative_prompt=recipe.negative_prompt if entry.negative_prompt is None else entry.negative_prompt,
            width=entry.width or width,
            height=entry.height or height,
        )
