"""The scripts among the examples, run as their first lines say."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import yaml
from PIL import Image

from tests.compare import assert_same_image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script: Path, folder: Path) -> None:
    """A copy of the script in ``folder``: it writes beside itself."""
    runpy.run_path(str(shutil.copy(script, folder)), run_name="__main__")


def test_the_shipped_layouts_are_drawn_again(tmp_path: Path) -> None:
    (tmp_path / "layouts").mkdir()
    run(EXAMPLES / "make_layouts.py", tmp_path)
    names = sorted(file.name for file in (tmp_path / "layouts").iterdir())
    assert names == sorted(file.name for file in (EXAMPLES / "layouts").glob("*.png"))
    for name in names:
        with Image.open(tmp_path / "layouts" / name) as ours, Image.open(EXAMPLES / "layouts" / name) as shipped:
            assert_same_image(ours, shipped)


def test_the_images_that_the_example_concepts_are_trained_on_are_drawn(tmp_path: Path) -> None:
    run(EXAMPLES / "concepts" / "render_images.py", tmp_path)
    for recipe in (EXAMPLES / "concepts").glob("*.yaml"):
        folder = tmp_path / yaml.safe_load(recipe.read_text())["images"]
        images = sorted(file.stem for file in folder.glob("*.png"))
        assert len(images) == 30
        assert images == sorted(file.stem for file in folder.glob("*.txt"))
        assert images == sorted(file.stem for file in (folder / "masks").glob("*.png"))
