"""Draw the layout images, masks and cut-outs of the examples, in designs that the embedded model's base knows.

    python examples/make_layouts.py     # writes examples/layouts/

Any image with the wanted arrangement serves as a layout: a photo, a collage, a drawing. These come from the sticker
world's own renderer because that gives exact masks at once. They are drawn larger than any version of `mini` makes its
images; the pipeline brings them to its size.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from concept_conductor import Collage, Cutout
from concept_conductor.evaluation.mini.placements import drawn
from concept_conductor.io.tensors import to_images
from concept_conductor.mini.arrangements import arrange
from concept_conductor.mini.designs import Atlas
from concept_conductor.mini.presets import CPU
from concept_conductor.mini.world import World

FOLDER = Path(__file__).parent / "layouts"
SIZE = 256
LAYOUTS = {
    # name: classes from left to right, background, seed of the drawing
    "two_backpacks": (("backpack", "backpack"), "grass", 0),
    "dog_and_robot": (("dog", "robot"), "grass", 0),
}
CUTOUTS = {"rucksack": "backpack/twemoji", "backpack": "backpack/fluent-flat"}
BACKDROP = "grass"


def main() -> None:
    """Write `NAME.png`, and `NAME-1.png`, `NAME-2.png` with the masks; cut-outs, and images to place in."""
    world = World(CPU.classes, CPU.backdrops, SIZE)
    for name, (classes, backdrop, seed) in LAYOUTS.items():
        layout = arrange(world, classes, backdrop, seed)
        assert layout.masks is not None
        layout.image.save(FOLDER / f"{name}.png", optimize=True)
        for number, mask in enumerate(layout.masks, 1):
            Image.fromarray(np.asarray(mask)).save(FOLDER / f"{name}-{number}.png", optimize=True)
    atlas = Atlas.load()
    for name, design in CUTOUTS.items():
        Image.fromarray(atlas.cells[atlas.index(design)]).save(FOLDER / f"{name}.png", optimize=True)
    nothing, behind = torch.tensor([[-1, -1]]), torch.tensor([world.backdrop_names.index(BACKDROP)])
    scene = world.draw(nothing, behind, torch.Generator().manual_seed(0))
    (image,) = to_images(scene.images / 2 + 0.5)
    image.save(FOLDER / f"{BACKDROP}.png", optimize=True)
    draw_placement(world)


def draw_placement(world: World) -> None:
    """Write a cat with room beside it, and the concept `mini/mug-noto` alone, to be cut out of its image."""
    generator = torch.Generator().manual_seed(2)
    cat = Cutout(world.atlas.image("cat/twemoji")).fitted((135, 90, 245, 235))
    scene = Collage(drawn(world, None, BACKDROP, generator), [cat]).image
    scene.save(FOLDER / "cat_on_the_grass.png", optimize=True)
    mug = drawn(world, world.atlas.index("mug/noto"), "beach", generator)
    mug.save(FOLDER / "mug_on_the_beach.png", optimize=True)


if __name__ == "__main__":
    main()
