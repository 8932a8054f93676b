"""Recipes carried out: files opened, the model loaded, one picture for each seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from concept_conductor.backbones import Backbone, Defaults
from concept_conductor.documents import Place
from concept_conductor.errors import ConductorError
from concept_conductor.finishing import decoded
from concept_conductor.layout import Layout
from concept_conductor.layouts.generation import PlainPictures
from concept_conductor.opening import PendingLayout, located_files, open_files
from concept_conductor.pipeline import ConceptConductorPipeline, ConductorOutput, load_model
from concept_conductor.placement import Placement
from concept_conductor.prompts import ConceptPrompt
from concept_conductor.provenance import Provenance, locate_model, model_sha256, sha256_at, versions
from concept_conductor.recipe import GenerationEntry, Recipe
from concept_conductor.scene import filled, image_size
from concept_conductor.settings import SamplingSettings
from concept_conductor.tracing.folder import folders_of


@dataclass(frozen=True)
class StepReport:
    """How far one picture is.

    Attributes:
        seed: the picture's.
        step: steps done, from 1.
        steps: steps in all.
        preview: decodes the picture as it is now; None while the layout is being inverted, whose steps these are.
    """

    seed: int
    step: int
    steps: int
    preview: Callable[[], Image.Image] | None


@dataclass(frozen=True)
class Picture:
    """One finished picture.

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
class Rendering:
    """A recipe with everything it names opened and checked, ready to run.

    Attributes:
        recipe: with every setting filled as it will be used.
        pipe: the loaded model.
        concepts, layout, placement: opened.
        provenance: of every picture, but for its seed.
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
        located: Mapping[Place, Path | str] | None = None,
        pipe: ConceptConductorPipeline | None = None,
    ) -> Rendering:
        """Open what ``recipe`` names, small files first, and load the model.

        Args:
            recipe: what to make.
            located: place -> verified path (a replay's); None for what lies at the recipe's own paths.
            pipe: a loaded pipeline to use instead of the recipe's model.

        Raises:
            ConductorError: anything missing, damaged or unfit.
        """
        paths = dict(located) if located is not None else located_files(recipe)
        concepts, opened, placement = open_files(recipe, paths)
        hashes = {name: sha256_at(place, Path(paths[place])) for place, name in recipe.files().items()}
        model = paths.get(("model",))
        if pipe is None:
            if model is None:
                model = locate_model(recipe.model, recipe.folder)
            pipe = load_pipeline(model, recipe)
            if isinstance(model, str):
                model = locate_model(model, recipe.folder)
        recipe = as_used(recipe, pipe, concepts)
        if misfit := next(misfits(recipe, pipe.backbone, concepts), None):
            raise misfit
        layout: Layout | None
        if isinstance(opened, PendingLayout):
            layout, recipe = made_layout(recipe, opened, paths, pipe)
        else:
            layout = opened
        check_fit(recipe, pipe.backbone, concepts, layout)
        provenance = Provenance(
            recipe=recipe.shareable(),
            seed=0,
            folder=str(recipe.folder.resolve()),
            files=hashes,
            model=model_sha256(model) if isinstance(model, Path) else None,
            versions=versions(),
        )
        return cls(recipe, pipe, concepts, layout, placement, provenance)

    def pictures(
        self, progress: Callable[[StepReport], None] | None = None, trace: Path | None = None
    ) -> Iterator[Picture]:
        """Make one picture for each seed of the recipe.

        Args:
            progress: told after each step.
            trace: a folder for a look inside, with a folder in it for each of several seeds.
        """
        seeds = self.recipe.seeds
        folders = [None] * len(seeds) if trace is None else folders_of(trace, seeds)
        for seed, folder in zip(seeds, folders, strict=True):
            yield self.picture(seed, progress, folder)

    def picture(
        self, seed: int, progress: Callable[[StepReport], None] | None = None, trace: Path | None = None
    ) -> Picture:
        """Make the picture of one seed, from noise drawn on the CPU so that every device starts from the same."""
        recipe = self.recipe
        assert recipe.steps is not None and recipe.guidance_scale is not None  # as_used filled them
        steps = recipe.steps

        def after_step(pipe: ConceptConductorPipeline, step: int, _t: int, tensors: dict[str, Tensor]) -> None:
            if progress is not None:
                progress(StepReport(seed, step + 1, steps, partial(decoded, pipe.backbone, tensors["latents"])))

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
        return Picture(seed, image, masks, first, seconds, flagged, record)


def load_pipeline(model: Path | str, recipe: Recipe) -> ConceptConductorPipeline:
    """Load a model on the recipe's device.

    Raises:
        ConductorError: it cannot be loaded, or there is no such device.
    """
    device = recipe.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise recipe.error(("device",), "there is no CUDA device here; set 'device: auto' or 'device: cpu'")
    dtype = number_type(recipe, device)
    pipe = load_model(model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    if recipe.vae_tiling:
        pipe.enable_vae_tiling()
    if recipe.offload and device != "cpu":
        pipe.enable_model_cpu_offload(device=device)
        return pipe
    return pipe.to(device)


def number_type(recipe: Recipe, device: str) -> torch.dtype:
    """What a recipe's model is loaded in."""
    dtype = recipe.dtype
    if dtype == "auto":
        dtype = "float16" if device.startswith("cuda") else "float32"
    found: torch.dtype = getattr(torch, dtype)
    return found


def as_used(recipe: Recipe, pipe: ConceptConductorPipeline, concepts: list[ConceptPrompt]) -> Recipe:
    """The recipe with nothing left to defaults, which may be others elsewhere or later."""
    settings = settings_of(recipe, pipe.defaults)
    entries = [
        entry.model_copy(update={"weight": float(prompt.weight)})
        for entry, prompt in zip(recipe.concepts, concepts, strict=True)
    ]
    changes: dict[str, Any] = {name: getattr(settings, name) for name in type(settings).model_fields}
    if isinstance(cache := settings.inversion.cache, Path):
        changes["inversion"] = settings.inversion.model_copy(update={"cache": recipe.folder / cache})
    width, height = size_of(recipe, pipe.backbone)
    changes |= {"concepts": tuple(entries), "width": width, "height": height}
    changes |= {"dtype": str(pipe.dtype).removeprefix("torch."), "device": pipe.backbone.device.type}
    return recipe.model_copy(update=changes)


def size_of(recipe: Recipe, backbone: Backbone) -> tuple[int, int]:
    """Width and height of a recipe's pictures by this model.

    Raises:
        ConductorError: the model cannot make that size; the sentence names file, line and field.
    """
    try:
        return image_size(backbone, recipe.width, recipe.height)
    except ConductorError as error:
        raise recipe.error(("width",) if recipe.width is not None else ("height",), str(error)) from error


def made_layout(
    recipe: Recipe, pending: PendingLayout, paths: Mapping[Place, Path | str], pipe: ConceptConductorPipeline
) -> tuple[Layout, Recipe]:
    """Generate a layout, and the recipe with what it was generated with.

    Args:
        recipe: with every setting filled.
        pending: what is to be made.
        paths: place -> verified path.
        pipe: the recipe's model.

    Raises:
        ConductorError: what it shall show cannot be had; the sentence names file, line and field.
    """
    assert recipe.layout is not None and recipe.width is not None and recipe.height is not None
    how = recipe.layout.generated or GenerationEntry()
    own = how.model is None
    if not own:
        pipe = load_pipeline(paths["layout", "generated", "model"], recipe)
    assert recipe.steps is not None and recipe.guidance_scale is not None
    paint = PlainPictures(
        pipe,
        steps=how.steps or recipe.steps,
        guidance_scale=how.guidance_scale or recipe.guidance_scale,
        negative_prompt=recipe.negative_prompt if how.negative_prompt is None else how.negative_prompt,
        width=how.width or (recipe.width if own else None),
        height=how.height or (recipe.height if own else None),
    )
    with recipe.blaming(*pending.place):
        layout = pending.make(paint, (recipe.width, recipe.height))
    used = {name: getattr(paint, name) for name in ("steps", "guidance_scale", "negative_prompt", "width", "height")}
    how = how.model_copy(update=used | {"seeds": layout.seeds or how.seeds})
    if recipe.layout.collage is not None:
        return layout, recipe  # its background's seed stands in it
    return layout, recipe.model_copy(update={"layout": recipe.layout.model_copy(update={"generated": how})})


def misfits(recipe: Recipe, backbone: Backbone, concepts: Sequence[ConceptPrompt]) -> Iterator[ConductorError]:
    """What is wrong with each concept that does not belong to the model, with the recipe's line and field."""
    for index, entry in enumerate(concepts):
        try:
            backbone.check(entry.concept)
        except ConductorError as error:
            misfit = recipe.error(("concepts", index, "file"), str(error))
            misfit.__cause__ = error
            yield misfit


def check_fit(recipe: Recipe, backbone: Backbone, concepts: Sequence[ConceptPrompt], layout: Layout | None) -> None:
    """Look, before anything long begins, whether the layout suits the concepts.

    Args:
        backbone: the recipe's model, whose weights are not looked at.

    Raises:
        ConductorError: they do not; the sentence names file, line and field.
    """
    if layout is None or not concepts:
        return
    width, height = size_of(recipe, backbone)
    grid = (height // backbone.vae_factor, width // backbone.vae_factor)
    refinement = recipe.refinement or backbone.defaults.refinement
    try:
        layout.mask_source(len(concepts), (width, height), grid, refinement)
    except ConductorError as error:
        place = ("placement", "objects") if recipe.layout is None else ("layout", recipe.layout.kind)
        raise recipe.error(place, str(error)) from error


def settings_of(recipe: Recipe, defaults: Defaults) -> SamplingSettings:
    """A recipe's settings on a model with these defaults."""
    usual = SamplingSettings()
    return filled(
        defaults,
        steps=recipe.steps or usual.steps,
        guidance_scale=recipe.guidance_scale,
        alignment=recipe.alignment,
        injection=recipe.injection,
        refinement=recipe.refinement,
        inversion=recipe.inversion,
        paths_per_forward=recipe.paths_per_forward,
    )
