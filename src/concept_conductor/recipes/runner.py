"""Recipes carried out: files opened, the model loaded, one image for each seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.layouts.layout import Layout
from concept_conductor.pipeline.pipeline import ConceptConductorPipeline, ConductorOutput
from concept_conductor.pipeline.postprocess import decode_preview
from concept_conductor.placement.placement import Placement
from concept_conductor.recipes.files import Located, located_files, sha256_at
from concept_conductor.recipes.load_inputs import load_inputs
from concept_conductor.recipes.model import fit_layout
from concept_conductor.recipes.provenance import Provenance, absolute, versions
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.tracing.folder import folders_of


@dataclass(frozen=True)
class StepReport:
    """How far one image is.

    Attributes:
        seed: the image's.
        step: steps done, from 1.
        steps: steps in all.
        preview: decodes the image as it is now; None while the layout is being inverted, whose steps these are.
    """

    seed: int
    step: int
    steps: int
    preview: Callable[[], Image.Image] | None


@dataclass(frozen=True)
class GeneratedImage:
    """One finished image.

    Attributes:
        seed: what its noise was drawn with.
        image: RGB.
        masks: the concepts' masks last used, ``(concepts, h, w)``, boolean, on the latent grid.
        layout_masks: those it started with.
        seconds: it took.
        flagged: whether the checkpoint's safety checker blacked it out.
        provenance: how it was made; goes into its PNG.
    """

    seed: int
    image: Image.Image
    masks: NDArray[np.bool_]
    layout_masks: NDArray[np.bool_]
    seconds: float
    flagged: bool
    provenance: Provenance


@dataclass(frozen=True)
class RecipeRunner:
    """A recipe with everything it names opened and checked, ready to run.

    Attributes:
        recipe: with every setting filled as it will be used.
        pipe: the loaded model.
        concepts, layout, placement: opened.
        provenance: of every image, but for its seed.
    """

    recipe: Recipe
    pipe: ConceptConductorPipeline
    concepts: list[ConceptPrompt]
    layout: Layout | None
    placement: Placement | None
    provenance: Provenance

    @classmethod
    def prepare(
        cls,
        recipe: Recipe,
        *,
        located: Located | None = None,
        pipe: ConceptConductorPipeline | None = None,
        fetch: Collection[str] | None = None,
    ) -> RecipeRunner:
        """Open what ``recipe`` names, small files first, load the model, and check all against each other.

        Args:
            recipe: what to make.
            located: place -> verified path (a replay's); None for what lies at the recipe's own paths.
            pipe: a loaded pipeline to use instead of the recipe's model.
            fetch: names of what may be asked of the hub; None where everything may that the recipe names.

        Raises:
            ConductorError: anything missing, damaged or unfit.
        """
        folder = absolute(recipe.folder)
        located = located_files(recipe) if located is None else located
        inputs = load_inputs(recipe, located, pipe=pipe, fetch=fetch)
        used = inputs.recipe
        layout = fit_layout(used, inputs.model.pipe.backbone, inputs.concepts, inputs.layout)
        provenance = Provenance(
            recipe=used.shareable(),
            seed=0,
            folder=str(folder),
            files={name: sha256_at(place, Path(located[place])) for place, name in recipe.files().items()},
            model=inputs.model.sha256(),
            versions=versions(),
        )
        assert used.width is not None and used.height is not None  # as_used filled them
        placement = inputs.placement and inputs.placement.fitted((used.width, used.height))
        return cls(used, inputs.model.pipe, inputs.concepts, layout, placement, provenance)

    def images(
        self, progress: Callable[[StepReport], None] | None = None, trace: Path | None = None
    ) -> Iterator[GeneratedImage]:
        """Make one image for each seed of the recipe.

        Args:
            progress: told after each step.
            trace: a folder for a look inside, with a folder in it for each of several seeds.
        """
        seeds = self.recipe.seeds
        folders = [None] * len(seeds) if trace is None else folders_of(trace, seeds)
        for seed, folder in zip(seeds, folders, strict=True):
            yield self.image(seed, progress, folder)

    def image(
        self, seed: int, progress: Callable[[StepReport], None] | None = None, trace: Path | None = None
    ) -> GeneratedImage:
        """Make the image of one seed, from noise drawn on the CPU so that every device starts from the same."""
        recipe = self.recipe
        assert recipe.steps is not None and recipe.guidance_scale is not None  # as_used filled them
        steps = recipe.steps

        def after_step(pipe: ConceptConductorPipeline, step: int, _t: int, tensors: dict[str, Tensor]) -> None:
            if progress is not None:
                progress(StepReport(seed, step + 1, steps, partial(decode_preview, pipe.backbone, tensors["latents"])))

        def inverting(done: int, total: int) -> None:
            if progress is not None:
                progress(StepReport(seed, done, total, None))

        start = time.perf_counter()
        out = self.pipe(
            prompt=recipe.prompt,
            concepts=self.concepts,
            layout=self.layout,
            negative_prompt=recipe.negative_prompt,
            prompt_2=recipe.prompt_2,
            negative_prompt_2=recipe.negative_prompt_2,
            height=recipe.height,
            width=recipe.width,
            num_inference_steps=steps,
            guidance_scale=recipe.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(seed),
            alignment=recipe.alignment,
            injection=recipe.injection,
            refinement=recipe.refinement,
            inversion=recipe.inversion,
            placement=self.placement,
            paths_per_forward=recipe.paths_per_forward,
            chunk_prompts=recipe.chunk_prompts,
            callback_on_step_end=after_step,
            callback_on_inversion=inverting,
            trace=trace,
        )
        assert isinstance(out, ConductorOutput)
        seconds = time.perf_counter() - start
        image = out.images[0]
        assert isinstance(image, Image.Image)
        used = self.provenance.recipe.model_copy(update={"seeds": (seed,)})
        record = self.provenance.model_copy(update={"seed": seed, "recipe": used})
        flagged = any(out.nsfw_content_detected or ())
        masks = np.asarray(out.masks[0], dtype=bool)
        first = masks if out.layout_masks is None else np.asarray(out.layout_masks[0], dtype=bool)
        return GeneratedImage(seed, image, masks, first, seconds, flagged, record)


def generate(
    recipe: Recipe,
    pipe: ConceptConductorPipeline | None = None,
    progress: Callable[[StepReport], None] | None = None,
    trace: str | Path | None = None,
) -> Iterator[GeneratedImage]:
    """Open a recipe, and make its images, one for each seed, as they are asked for.

    Args:
        recipe: what to make.
        pipe: a loaded pipeline; None loads the recipe's model.
        progress: told after each step.
        trace: a folder for a look inside, with a folder in it for each of several seeds.

    Raises:
        ConductorError: anything that does not fit, in one sentence.
    """
    return RecipeRunner.prepare(recipe, pipe=pipe).images(progress, None if trace is None else Path(trace))
