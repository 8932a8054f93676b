"""Images that the sticker world draws for benchmarks: layouts with masks, and references of its designs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark, SceneSpec
from concept_conductor.io.drawing import mask_as_image
from concept_conductor.io.images import load_image, save_png
from concept_conductor.io.tensors import to_images
from concept_conductor.mini.arrangements import arrange
from concept_conductor.mini.presets import CPU
from concept_conductor.mini.world import World
from concept_conductor.recipes.schema.layout import LayoutEntry

REFERENCES = 4
"""Reference images of a design: alone, on so many backgrounds."""
MOST_OBJECTS = 3
REFERENCE_SEED = 7


def layout_of(benchmark: Benchmark, scene: SceneSpec, folder: Path) -> LayoutEntry:
    """Return the scene's layout as files; one that the sticker world draws is written to ``folder``.

    Raises:
        ConductorError: the sticker world cannot draw it.
    """
    if scene.layout is not None:
        return scene.layout
    drawn = scene.drawn
    assert drawn is not None  # a scene has one of the two
    world = CPU.world()
    classes = [benchmark.concepts[name].class_words for name in scene.concepts]
    for what, known in ((drawn.backdrop, world.backdrop_names), *((name, world.classes) for name in classes)):
        if what not in known:
            raise ConductorError(
                benchmark.complaint(
                    scene.place, f"the sticker world has no '{what}' to draw; expected one of {', '.join(known)}"
                )
            )
    if len(classes) > MOST_OBJECTS:
        raise ConductorError(
            benchmark.complaint(scene.place, f"the sticker world draws up to 3 objects, but there are {len(classes)}")
        )
    stem = f"{'-'.join(classes)}-{drawn.backdrop}-{drawn.seed}"
    image = folder / f"{stem}.png"
    masks = [image.with_name(f"{stem}-{number}.png") for number in range(1, len(classes) + 1)]
    if not all(map(is_whole, (image, *masks))):
        arrangement = arrange(world, classes, drawn.backdrop, drawn.seed)
        for mask, file in zip(arrangement.masks, masks):
            save_png(mask_as_image(np.asarray(mask)), file)
        save_png(arrangement.image, image)
    return LayoutEntry(
        image=_seen_from(benchmark.folder, image),
        prompt=scene.text,
        masks=tuple(_seen_from(benchmark.folder, file) for file in masks),
    )


def references_of(benchmark: Benchmark, name: str, folder: Path) -> tuple[Path, ...]:
    """Return a concept's reference images; those that the sticker world draws are written to ``folder``.

    Raises:
        ConductorError: there is no such design.
    """
    subject = benchmark.concepts[name]
    if subject.design is None:
        return tuple(benchmark.folder / file for file in subject.references)
    world = World(CPU.classes, CPU.backdrops, CPU.size, held_out=None)
    try:
        cell = world.atlas.index(subject.design)
    except KeyError as error:
        raise ConductorError(benchmark.complaint(("concepts", name, "design"), str(error.args[0]))) from error
    files = [folder / f"{subject.design.replace('/', '-')}-{number}.png" for number in range(1, REFERENCES + 1)]
    if not all(map(is_whole, files)):
        generator = torch.Generator().manual_seed(REFERENCE_SEED)
        scenes = world.draw(torch.full((REFERENCES, 1), cell), torch.arange(REFERENCES), generator)
        for image, file in zip(to_images(scenes.images / 2 + 0.5), files):
            save_png(image, file)
    return tuple(files)


def is_whole(file: Path) -> bool:
    """Return whether a drawn image is there and undamaged; else it is drawn again, to the same file."""
    try:
        load_image(file)
    except ConductorError:
        return False
    return True


def _seen_from(folder: Path, file: Path) -> str:
    """Return a file's name as a benchmark in ``folder`` would write it."""
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive
        return str(file.absolute())
