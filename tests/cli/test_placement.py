"""Recipes that place concepts in an image: made, made again, and what is said of those that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor.recipes.provenance import Provenance
from tests.cli.conftest import assert_same_replay
from tests.conftest import tiny_image

LAYOUT = """\
layout:
  image: ref.png
  prompt: A dog and a cat in the street.
  masks: [mask1.png, mask2.png]
"""
PLACEMENT = """\
placement:
  image: init.png
  prompt: A dog in the street.
  objects:
    - replace: {box: [8, 8, 50, 60]}
    - add: {image: cat.png, mask: cat-mask.png, point: [90, 80], size: 40, flip: true}
"""


@pytest.fixture
def placing(recipe: Path) -> Path:
    """The recipe, with one concept replacing what is in a box and one added."""
    tiny_image("init").resize((128, 128)).save(recipe.parent / "init.png")
    Image.new("RGB", (30, 20), "red").save(recipe.parent / "cat.png")
    Image.new("L", (30, 20), "white").save(recipe.parent / "cat-mask.png")
    recipe.write_text(recipe.read_text().replace(LAYOUT, PLACEMENT).replace("steps: 999", "steps: 2"))
    return recipe


def test_made_and_made_again(conductor: Callable, placing: Path) -> None:
    outcome = conductor("generate", placing, "--seeds", "3", "--out", "made")
    assert outcome.status == 0, outcome.err
    with Image.open(placing.parent / "init.png") as image:
        original = np.asarray(image)
    with Image.open("made/seed-0003.png") as image:
        changed = (np.asarray(image) != original).any(-1)
    assert changed[20:40, 20:40].mean() > 0.5 and changed[75:85, 80:100].mean() > 0.5
    assert not changed[107:].any() and not changed[:, 51:57].any()
    with Image.open("made/layout-image.png") as image:
        assert image.getpixel((90, 80)) == (255, 0, 0)
    with Image.open("made/placement.png") as image:
        assert not changed[np.asarray(image) == 0].any()

    provenance = Provenance.read("made/seed-0003.png")
    assert {"init.png", "cat.png", "cat-mask.png"} <= set(provenance.files)
    again = conductor("replay", "made/seed-0003.png", "--json")
    assert_same_replay(again)

    (placing.parent / "cat-mask.png").unlink()
    assert "'cat-mask.png' is missing in" in conductor("replay", "made/seed-0003.png").err


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("    - replace: {box: [8, 8, 50, 60]}\n", "", "", "1 objects for 2 concepts; give one for each concept"),
        ("{box: [8, 8, 50, 60]}", "{}", 13, "either 'mask', 'words', 'point' or 'box', exactly one"),
        ("{box: [8, 8, 50, 60]}", "{box: [8, 8, 50, 160]}", 12, "reaches out of the layout image of 128x128 pixels"),
        ("{box: [8, 8, 50, 60]}", "{mask: cat-mask.png}", 12, "mask 1 has 30x20 pixels, but the image 128x128"),
        ("{box: [8, 8, 50, 60]}", "{mask: no.png}", 13, "there is no file"),
        ("size: 40", "box: [1, 2, 3, 4]", 14, "either 'box' or 'point' (with 'size'), where it goes"),
        ("point: [90, 80], size: 40", "box: [1, 2, 3, 4], size: 40", 14, "a 'size' goes with 'point'"),
        ("mask: cat-mask.png, ", "", 14, "a cut-out needs an image with transparency (RGBA), or a mask"),
        ("mask: cat-mask.png", "mask: init.png", 14, "but its mask 128x128; expected the same"),
        ("mask: cat-mask.png", "mask: cat-mask.png, words: a cat", 14, "'mask' or 'words' to cut it out by, not both"),
        (
            "    - add:",
            "    - replace: {words: a}\n      add:",
            14,
            "either 'replace' or 'add', exactly one",
        ),
        ("point: [90, 80]", "point: [90, 180]", 12, "the point (90, 180) lies outside of the image of 128x128"),
        ("  prompt: A dog in the street.\n", "", 9, "the placement needs 'prompt', what the image shows as it is"),
        ("  objects:", "  mask: cat-mask.png\n  objects:", 9, "exactly one of the two"),
        ("steps: 2\n", "steps: 2\n" + LAYOUT, 16, "the placement's objects are the layout already"),
    ],
)
def test_what_cannot_be_is_said_with_its_line(
    conductor: Callable, placing: Path, quick: object, old: str, new: str, line: int | str, said: str
) -> None:
    text = placing.read_text()
    assert text.count(old) >= 1
    placing.write_text(text.replace(old, new, 1))
    outcome = conductor("generate", placing)
    assert outcome.status == 1
    assert said in outcome.err and (not line or f"line {line}" in outcome.err), outcome.err
    assert "Traceback" not in outcome.err and not Path("outputs").exists()
