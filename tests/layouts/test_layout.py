"""What a layout takes, what it refuses, and how it comes into the proportions of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from concept_conductor import Layout, MaskEdit
from concept_conductor.errors import ConductorError
from concept_conductor.io.tensors import open_mask

WIDE = (96, 64)


def block(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = WIDE) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def inside(mask: Any) -> np.ndarray:
    return np.asarray(open_mask(mask)) > 127


def test_paths_and_arrays_are_opened(tmp_path: Path) -> None:
    Image.new("RGB", WIDE, (1, 2, 3)).save(tmp_path / "street.png")
    mask = block(40, 20, 60, 40)
    Image.fromarray(mask).save(tmp_path / "dog.png")
    layout = Layout(
        str(tmp_path / "street.png"), "a street", masks=[tmp_path / "dog.png", mask, torch.from_numpy(mask)]
    )
    assert layout.image.size == WIDE and layout.image.getpixel((0, 0)) == (1, 2, 3)
    assert [np.array_equal(exact, mask) for exact in layout.exact_masks() or ()] == [True] * 3
    assert Layout(np.full((64, 96, 3), 7, np.uint8), "a street", points=[(0, 0)]).image.getpixel((5, 5)) == (7, 7, 7)


def test_images_in_memory_are_read_like_files() -> None:
    """Upright, with transparency on white."""
    turned = Image.new("RGB", (4, 2), "red")
    turned.getexif()[0x0112] = 6
    assert Layout(turned, "red", points=[(0, 0)]).image.size == (2, 4)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    layout = Layout(clear, "nothing", masks=[clear])
    assert layout.image.mode == "RGB" and layout.image.getpixel((0, 0)) == (255, 255, 255)
    assert not (layout.exact_masks() or [np.ones(1)])[0].any()


def test_a_phones_masks_may_be_drawn_on_its_stored_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", WIDE).save(tmp_path / "phone.jpg", exif=exif)
    drawn = block(4, 8, 30, 20)
    layout = Layout(tmp_path / "phone.jpg", "a dog", masks=[drawn, np.rot90(drawn, -1)])
    assert layout.image.size == WIDE[::-1]
    for exact in layout.exact_masks() or ():
        assert np.array_equal(exact, np.rot90(drawn, -1))


IMAGE = Image.new("RGB", WIDE)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"image": 5},
            "the layout's image must be a PIL image, the path of a file, or an array, but it is of type int",
        ),
        ({"image": "nowhere.png"}, "there is no image 'nowhere.png'"),
        ({"prompt": None}, "the layout's prompt must be text .* but it is None"),
        ({"fit": "stretch"}, "the layout's fit must be 'crop' or 'pad', but it is 'stretch'"),
        ({"edit": {"grow": 2}}, "the layout's edit must be a MaskEdit, but it is of type dict"),
        ({"masks": None}, "either masks= or points= or boxes="),
        ({"points": [(1, 1)]}, "either masks= or points= or boxes="),
        ({"masks": "dog.png"}, "the layout's masks must be a list .* of type str; put it in brackets"),
        ({"masks": Image.new("L", WIDE)}, "the layout's masks must be a list"),
        ({"masks": 7}, "the layout's masks must be a list .* of type int"),
        ({"masks": block(0, 0, 9, 9)}, r"mask 1 must be an array \(h, w\), but its shape is \(96,\)"),
        ({"masks": [block(0, 0, 9, 9), None]}, "mask 2 must be a PIL image"),
        ({"masks": [np.where(block(0, 0, 9, 9), 255.0, 2.0)]}, "mask 1 holds float64 numbers from 2 to 255"),
        ({"masks": [block(0, 0, 9, 9, (64, 96))]}, "mask 1 has 64x96 pixels, but the image 96x64: other proportions"),
        ({"masks": None, "points": [(1, 2), (3,)]}, r"point 2 must be \(x, y\) in finite numbers, but it is \(3,\)"),
        ({"masks": None, "points": [("a", 2)]}, r"point 1 must be \(x, y\)"),
        ({"masks": None, "points": [(float("nan"), 2)]}, r"point 1 must be \(x, y\)"),
        ({"masks": None, "points": (1, 2)}, r"point 1 must be \(x, y\) in finite numbers, but it is 1"),
        ({"masks": None, "boxes": [(1, 2, 3, None)]}, r"box 1 must be \(left, top, right, bottom\)"),
    ],
)
def test_what_is_no_layout(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        Layout(**{"image": IMAGE, "prompt": "a dog", "masks": [block(0, 0, 9, 9)], **arguments})


def test_a_layout_of_the_runs_proportions_is_itself(caplog: pytest.LogCaptureFixture) -> None:
    layout = Layout(IMAGE, "a dog", masks=[block(0, 0, 9, 9)])
    assert layout.fitted((768, 512)) is layout
    assert not caplog.text


def test_masks_are_cropped_or_padded_with_their_image(caplog: pytest.LogCaptureFixture) -> None:
    image = Image.new("RGB", WIDE, "red")
    image.paste("blue", (20, 10, 40, 30))
    whole, half = block(20, 10, 40, 30), block(10, 5, 20, 15, (48, 32))
    cropped = Layout(image, "blue", masks=[whole, half]).fitted((512, 512))
    assert caplog.messages == [
        "the layout image is cropped from 96x64 pixels to its middle 64x64, the proportions of the run's 512x512; "
        "fit: pad keeps all of it instead"
    ]
    padded = Layout(image, "blue", masks=[whole, half], fit="pad").fitted((512, 512))
    for layout, size, left, top in ((cropped, (64, 64), 4, 10), (padded, (96, 96), 20, 26)):
        assert layout.image.size == size
        blue = np.asarray(layout.image)[..., 2] == 255
        assert np.array_equal(blue, block(left, top, left + 20, top + 20, size))
        assert np.array_equal(inside((layout.masks or ())[0]), blue)
        for exact in layout.exact_masks() or ():
            assert (exact & blue).sum() / (exact | blue).sum() > 0.9  # the small one is enlarged
        assert layout.fitted((512, 512)) is layout


def test_edits_come_before_cropping_in_pixels_of_the_whole_image() -> None:
    masks = [block(8, 10, 14, 30)]  # outside of the middle until it grows
    fitted = Layout(IMAGE, "a dog", masks=masks, edit=MaskEdit(grow=4)).fitted((64, 64))
    assert fitted.edit is None
    assert np.flatnonzero((fitted.exact_masks() or ())[0].any(0)).tolist() == [0, 1]
    found = Layout(IMAGE, "a dog", points=[(40, 10)], edit=MaskEdit(grow=4)).fitted((64, 64))
    assert found.edit == MaskEdit(grow=4)  # which waits for the region, in pixels of the same length


def test_points_and_boxes_move_with_their_image() -> None:
    points = Layout(IMAGE, "a dog", points=[(20, 10), (79, 63)])
    assert points.fitted((64, 64)).points == [(4, 10), (63, 63)]
    padded = Layout(IMAGE, "a dog", points=[(20, 10)], fit="pad")
    assert padded.fitted((64, 64)).points == [(20, 26)]
    boxes = Layout(IMAGE, "a dog", boxes=[(0, 10, 40, 30), (50, 0, 96, 64)])
    assert boxes.fitted((64, 64)).boxes == [(0, 10, 24, 30), (34, 0, 64, 64)]


@pytest.mark.parametrize(
    ("places", "sentence"),
    [
        ({"masks": [block(40, 10, 60, 30), block(0, 0, 15, 64)]}, "mask 2 lies in what is cut off of the layout image"),
        ({"points": [(40, 10), (5, 5)]}, "point 2 lies in what is cut off .* for a run of 64x64; give fit='pad'"),
        ({"boxes": [(82, 0, 96, 64)]}, "box 1 lies in what is cut off"),
        ({"points": [(100, 10)]}, r"the point \(100, 10\) lies outside of the layout image of 96x64 pixels"),
        ({"boxes": [(40, 0, 100, 64)]}, "reaches out of the layout image of 96x64"),
    ],
)
def test_what_is_cut_off_wholly_is_refused(
    places: dict[str, Any], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ConductorError, match=sentence):
        Layout(IMAGE, "a dog", **places).fitted((64, 64))
    if "cut off" in sentence:
        assert Layout(IMAGE, "a dog", fit="pad", **places).fitted((64, 64)).image.size == (96, 96)


def test_an_empty_mask_stays_an_empty_mask() -> None:
    """It is refused where masks are looked at, in the words for it."""
    fitted = Layout(IMAGE, "a dog", masks=[np.zeros((64, 96), bool)]).fitted((64, 64))
    assert not inside((fitted.masks or ())[0]).any()
