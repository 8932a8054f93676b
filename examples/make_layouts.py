"""Draw the layout pictures and masks of the examples, in designs that the embedded model's base knows.

    python examples/make_layouts.py     # writes examples/layouts/

Any picture with the wanted arrangement serves as a layout: a photo, a collage, a drawing. These come from the sticker
world's own renderer because that gives exact masks at once. They are drawn larger than any version of `mini` makes its
pictures; the pipeline brings them to its size.
"""

from pathlib import Path

import torch
from PIL import Image

from concept_conductor import Collage, Cutout
from concept_conductor.mini.placements import drawn
from concept_conductor.mini.presets import CPU
from concept_conductor.mini.report import arrange
from concept_conductor.mini.world import World

FOLDER = Path(__file__).parent / "layouts"
SIZE = 256
LAYOUTS = {
    # name: classes from left to right, background, seed of the drawing
    "two_backpacks": (("backpack", "backpack"), "grass", 0),
    "dog_and_robot": (("dog", "robot"), "grass", 0),
}


def main() -> None:
    """Write `NAME.png`, and `NAME-1.png`, `NAME-2.png` with the masks; `cat.png` and `mug.png` for `add_a_mug.yaml`."""
    world = World(CPU.classes, CPU.backdrops, SIZE)
    for name, (classes, backdrop, seed) in LAYOUTS.items():
        layout = arrange(world, classes, backdrop, seed).layout
        assert layout.masks is not None
        layout.image.save(FOLDER / f"{name}.png", optimize=True)
        for number, mask in enumerate(layout.masks, 1):
            Image.fromarray(mask).save(FOLDER / f"{name}-{number}.png", optimize=True)
    scene, mug = add_a_mug()
    scene.save(FOLDER / "cat.png", optimize=True)
    mug.save(FOLDER / "mug.png", optimize=True)


def add_a_mug() -> tuple[Image.Image, Image.Image]:
    """A cat with room beside it, and a picture of the concept `mini/mug-noto` alone, to be cut out."""
    world = World(CPU.classes, CPU.backdrops, SIZE)
    generator = torch.Generator().manual_seed(2)
    cat = Cutout(world.atlas.image("cat/twemoji")).fitted((135, 90, 245, 235))
    scene = Collage(drawn(world, None, "grass", generator), [cat]).image
    return scene, drawn(world, world.atlas.index("mug/noto"), "beach", generator)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    main()
