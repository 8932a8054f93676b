"""Designs: the icons that stand for the classes of the sticker world, and the atlas that ships them.

A design is one class in one style ("dog/noto"). The atlas is a PNG of square RGBA cells and a JSON list that says,
cell by cell, what it shows and whose work it is, so that nothing but Pillow is needed to draw a scene.

    python -m concept_conductor.mini.designs FOLDER     # FOLDER: packages unpacked from `npm pack @iconify-json/...`

makes the atlas and NOTICE anew (needs resvg-py).
"""

import io
import json
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from concept_conductor.mini import ATLAS_FILE, FOLDER

CELL = 96
"""Side of a cell in pixels; the drawing's longer side measures `CELL - 2 * MARGIN`."""
MARGIN = 2
COLUMNS = 12

PACKAGES = {
    "noto": "noto@1.2.9",
    "noto-v1": "noto-v1@1.2.5",
    "twemoji": "twemoji@1.2.5",
    "fluent": "fluent-emoji@1.2.7",
    "fluent-flat": "fluent-emoji-flat@1.2.6",
    "emojione": "emojione@1.2.3",
    "fxemoji": "fxemoji@1.2.2",
}
"""Style -> npm package under @iconify-json."""

HELD_OUT_STYLES = ("noto", "emojione")
"""The base model never sees these: their designs are the personalized concepts."""

ICONS = {
    "dog": ("dog",),
    "cat": ("cat",),
    "robot": ("robot", "robot-face"),
    "backpack": ("backpack", "school-backpack"),
    "mug": ("hot-beverage",),
    "car": ("automobile",),
    "penguin": ("penguin",),
    "rabbit": ("rabbit",),
    "house": ("house",),
    "tree": ("deciduous-tree",),
    "mushroom": ("mushroom",),
    "guitar": ("guitar",),
    "elephant": ("elephant",),
    "turtle": ("turtle",),
    "snowman": ("snowman-without-snow", "snowman"),
    "pumpkin": ("jack-o-lantern",),
    "cactus": ("cactus",),
    "rocket": ("rocket",),
    "tiger": ("tiger",),
    "pig": ("pig",),
}
"""Class -> the names its icon has in the sets."""

MISFITS = {(name, "fxemoji") for name in ("dog", "cat", "penguin", "tiger", "pig")} | {("tiger", "emojione")}
"""Left out: a face where the other styles draw the whole animal."""


@dataclass(frozen=True)
class Design:
    """One cell of the atlas."""

    class_name: str
    style: str
    icon: str
    package: str
    author: str
    licence: str
    source: str

    @property
    def name(self) -> str:
        """`class/style`, unique in the atlas."""
        return f"{self.class_name}/{self.style}"

    @property
    def held_out(self) -> bool:
        """Whether the base model was kept from seeing it."""
        return self.style in HELD_OUT_STYLES


@dataclass(frozen=True)
class Atlas:
    """All designs and their drawings, uint8 RGBA `(designs, CELL, CELL, 4)`, centred in their cells."""

    designs: tuple[Design, ...]
    cells: np.ndarray

    @staticmethod
    @cache
    def load() -> "Atlas":
        """The atlas of the package."""
        designs = tuple(Design(**entry) for entry in json.loads(ATLAS_FILE.with_suffix(".json").read_text()))
        with Image.open(ATLAS_FILE) as sheet:
            pixels = np.asarray(sheet.convert("RGBA"))
        rows = pixels.reshape(-1, CELL, COLUMNS, CELL, 4).swapaxes(1, 2)
        return Atlas(designs, rows.reshape(-1, CELL, CELL, 4)[: len(designs)])

    def index(self, name: str) -> int:
        """Cell of the design `name` ("dog/noto"); KeyError with the known names if there is none."""
        names = [design.name for design in self.designs]
        if name not in names:
            raise KeyError(f"no design {name!r}; expected one of {', '.join(names)}")
        return names.index(name)

    def image(self, name: str) -> Image.Image:
        """The drawing of one design, RGBA."""
        return Image.fromarray(self.cells[self.index(name)])


def build(packages: Path) -> None:
    """Draw every icon of `ICONS` found in the unpacked npm `packages` and write atlas.png, atlas.json and NOTICE."""
    designs, cells = [], []
    for style, package in PACKAGES.items():
        folder = next(packages.glob(f"iconify-json-{package.replace('@', '-')}*/package"))
        icons, info = (json.loads((folder / file).read_text()) for file in ("icons.json", "info.json"))
        for class_name, names in ICONS.items():
            found = [name for name in (_resolve(icons, name) for name in names) if name]
            if not found or (class_name, style) in MISFITS:
                continue
            author, licence = info["author"], info["license"]
            source = f"@iconify-json/{package}"
            designs.append(Design(class_name, style, found[0], source, author["name"], licence["spdx"], author["url"]))
            cells.append(_draw(icons, found[0]))
    order = sorted(range(len(designs)), key=lambda i: list(ICONS).index(designs[i].class_name))
    designs, cells = [designs[i] for i in order], [cells[i] for i in order]

    rows = -(-len(cells) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * CELL, rows * CELL))
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % COLUMNS * CELL, i // COLUMNS * CELL))
    sheet.save(ATLAS_FILE, optimize=True)
    ATLAS_FILE.with_suffix(".json").write_text(json.dumps([asdict(design) for design in designs], indent=0) + "\n")
    (FOLDER / "NOTICE").write_text(notice(designs))


def notice(designs: list[Design]) -> str:
    """Attribution of every design, grouped by the set it comes from."""
    text = [
        "The sticker world (src/concept_conductor/mini/atlas.png), and the weights trained on it, use drawings from",
        "these icon sets, scaled to 96 pixels and otherwise unchanged. No endorsement by their authors is implied.",
    ]
    for style in dict.fromkeys(design.style for design in designs):
        group = [design for design in designs if design.style == style]
        first = group[0]
        text += [
            "",
            f"{style}: {first.author}, {first.source}",
            f"  licence {first.licence} ({LICENCES[first.licence]}); taken from {first.package}",
            *(f"  {design.class_name}: {design.icon}" for design in group),
        ]
    return "\n".join(text) + "\n"


LICENCES = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "MIT": "https://github.com/microsoft/fluentui-emoji/blob/main/LICENSE",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
}


def _resolve(icons: dict, name: str) -> str | None:
    """The icon that `name` or its aliases stand for."""
    while name not in icons["icons"]:
        if name not in icons.get("aliases", {}):
            return None
        name = icons["aliases"][name]["parent"]
    return name


def _draw(icons: dict, name: str) -> Image.Image:
    """One icon, trimmed and centred in a cell."""
    import resvg_py  # only needed here, where the atlas is made

    icon = {**{key: icons[key] for key in ("left", "top", "width", "height") if key in icons}, **icons["icons"][name]}
    width, height = icon.get("width", 16), icon.get("height", 16)
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{icon["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=512, height=512, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = drawing.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox()
    drawing = drawing.crop(box)
    scale = (CELL - 2 * MARGIN) / max(drawing.size)
    small = drawing.resize([max(1, round(side * scale)) for side in drawing.size], Image.Resampling.LANCZOS)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(small, ((CELL - small.width) // 2, (CELL - small.height) // 2))
    return cell


if __name__ == "__main__":
    build(Path(sys.argv[1]))
