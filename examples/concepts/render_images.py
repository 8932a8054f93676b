"""Draw the training images of the example concepts: designs that the embedded model's base has never seen.

    python examples/concepts/render_images.py     # writes examples/concepts/images/

Each design stands alone on every background, large, beside another object, and beside its like, small, since that is
how it will be asked for; with exact captions and masks. None is mirrored: a small model takes a drawing and its mirror
image for one thing with features on both sides.
"""

from pathlib import Path

import torch
from PIL import Image

from concept_conductor.io.tensors import to_images
from concept_conductor.mini.presets import CPU
from concept_conductor.mini.world import BACKDROPS, World
from concept_conductor.training.captions import TOKEN

FOLDER = Path(__file__).parent / "images"
CLASSES = ("dog", "cat", "robot", "backpack", "mug")
STYLES = ("noto", "emojione")
COMPANION_STYLE = "twemoji"
ALONE, BESIDE, DOUBLE = 8, 8, 14
SEED = 7


def main() -> None:
    """Write `CLASS-STYLE/NN.png`, `NN.txt` and `masks/NN.png`."""
    world = World(CPU.classes, CPU.backdrops, CPU.size, held_out=None)
    for class_name in CLASSES:
        for style in STYLES:
            draw(world, class_name, style, FOLDER / f"{class_name}-{style}")


def draw(world: World, class_name: str, style: str, folder: Path) -> None:
    """All images of one design."""
    subject = world.atlas.index(f"{class_name}/{style}")
    others = [name for name in world.classes if name != class_name]
    designs = torch.full((ALONE + BESIDE + DOUBLE, 2), -1)
    designs[:ALONE, 0] = subject
    designs[ALONE + BESIDE :] = subject
    captions = [f"a {TOKEN}"] * ALONE
    for row in range(ALONE, ALONE + BESIDE):
        other, place = others[row % len(others)], row % 2  # left, then right
        designs[row, place], designs[row, 1 - place] = subject, world.atlas.index(f"{other}/{COMPANION_STYLE}")
        captions.append(f"a {other} and a {TOKEN}" if place else f"a {TOKEN} and a {other}")
    captions += [f"a {TOKEN} and a {TOKEN}"] * DOUBLE
    backdrops = torch.arange(len(designs)) % len(world.backdrops)
    scenes = world.draw(designs, backdrops, torch.Generator().manual_seed(SEED), mirror=0)

    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for row, (caption, image) in enumerate(zip(captions, to_images(scenes.images / 2 + 0.5))):
        name = f"{row + 1:02}"
        mask = scenes.masks[row][scenes.designs[row] == subject].any(0).byte().numpy() * 255
        image.save(folder / f"{name}.png", optimize=True)
        Image.fromarray(mask).convert("1").save(folder / "masks" / f"{name}.png", optimize=True)
        place_phrase = BACKDROPS[world.backdrop_names[int(backdrops[row])]].phrase
        (folder / f"{name}.txt").write_text(f"{caption} {place_phrase}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
