"""Images and masks as users have them, and between images, arrays and tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io.tensors import (
    image_pixels,
    mask_iou,
    mask_pixels,
    open_image,
    open_layer,
    open_mask,
    to_floats,
    to_images,
    to_pixels,
)

INSIDE = np.array([[True, False, True], [False, False, True]])


@pytest.mark.parametrize(
    "mask",
    [
        INSIDE,
        INSIDE.astype(np.uint8) * 255,
        INSIDE.astype(np.int64) * 255,
        INSIDE.astype(np.float64),
        INSIDE.astype(np.float16),
        torch.from_numpy(INSIDE),
        torch.from_numpy(INSIDE).to(torch.bfloat16),
        torch.from_numpy(INSIDE).float().requires_grad_(),
        INSIDE + np.float32(5e-4) * ~INSIDE,
        Image.fromarray(INSIDE),
        Image.fromarray(INSIDE.astype(np.uint8) * 255).convert("RGBA"),
    ],
)
def test_masks_of_every_kind(mask: object) -> None:
    assert np.array_equal(np.asarray(open_mask(mask)), INSIDE * 255)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.where(INSIDE, 255.0, 2.0), "float64 numbers from 2 to 255; expected 0 to 1"),
        (INSIDE.astype(np.float32) - 0.5, "from -0.5 to 0.5; expected 0 to 1"),
        (np.where(INSIDE, np.nan, 1.0), "from nan to nan; expected 0 to 1"),
        (np.where(INSIDE, np.inf, 0.0), "from 0 to inf; expected 0 to 1"),
        (INSIDE.astype(np.uint16) * 0xFF00, "uint16 numbers from 0 to 65280; expected 0 to 255"),
        (-INSIDE.astype(int), "int64 numbers from -1 to 0; expected 0 to 255"),
        (np.where(INSIDE, 255, 511), "int64 numbers from 255 to 511; expected 0 to 255"),
        (INSIDE.astype(np.uint8), "uint8 numbers from 0 to 1; expected 0 to 255, or bool"),
        (torch.from_numpy(INSIDE).long(), "int64 numbers from 0 to 1; expected 0 to 255, or bool"),
        (INSIDE.astype(str), "must hold bool, uint8 or float numbers, but it holds <U5"),
        (INSIDE.astype(complex), "must hold bool, uint8 or float numbers, but it holds complex128"),
        (INSIDE.astype(object), "must hold bool, uint8 or float numbers, but it holds object"),
        (INSIDE[None], r"mask 3 must be an array \(h, w\), but its shape is \(1, 2, 3\)"),
        (INSIDE[0], r"mask 3 must be an array \(h, w\), but its shape is \(3,\)"),
        (np.zeros((0, 3), bool), r"but its shape is \(0, 3\)"),
        (None, "mask 3 must be a PIL image, the path of a file, or an array, but it is of type NoneType"),
        ([[True]], "but it is of type list"),
        ("nowhere.png", "there is no image 'nowhere.png'"),
    ],
)
def test_masks_that_nobody_can_mean(mask: object, sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        open_mask(mask, "mask 3")  # type: ignore[arg-type]


def test_images_of_every_kind(tmp_path: Path) -> None:
    colours = np.array([[[255, 0, 0], [0, 51, 255]]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "a.png")
    floats = (colours / 255).astype(np.float32)
    given = (colours, floats, torch.from_numpy(floats), tmp_path / "a.png", str(tmp_path / "a.png"))
    for image in given:
        assert np.array_equal(np.asarray(open_image(image)), colours)
    clear = np.concatenate([colours, np.array([[[0], [255]]], np.uint8)], axis=2)
    assert np.array_equal(np.asarray(open_image(clear)), [[[255] * 3, [0, 51, 255]]])
    assert np.array_equal(np.asarray(open_layer(clear)), clear)
    assert open_image(np.full((2, 3), 0.2)).getpixel((2, 1)) == (51, 51, 51)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (
            np.zeros((2, 3, 2)),
            r"the layout's image must be an array \(h, w\) or \(h, w, 3 or 4\), but its shape is \(2, 3, 2\)",
        ),
        (torch.zeros(3, 5, 6), r"but its shape is \(3, 5, 6\)"),
        (5, "the layout's image must be a PIL image, the path of a file, or an array, but it is of type int"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "the layout's image holds numbers that are not finite"),
        (Image.new("RGB", (0, 0)), "the layout's image has no pixels"),
    ],
)
def test_images_that_nobody_can_mean(image: object, sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        open_image(image, "the layout's image")  # type: ignore[arg-type]


def test_an_image_whose_file_is_closed(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        pass
    with pytest.raises(ConductorError, match="the image cannot be decoded .*open it with load_image"):
        open_image(image)


def test_pixels_and_images_are_each_others_inverse() -> None:
    image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    pixels = to_pixels(image)
    assert pixels.shape == (3, 4, 4)
    assert pixels[:, 0, 1].tolist() == pytest.approx([15 / 127.5 - 1, 20 / 127.5 - 1, 25 / 127.5 - 1], abs=1e-6)
    (again,) = to_images(pixels[None] / 2 + 0.5)
    assert np.array_equal(np.asarray(again), np.asarray(image))
    assert np.allclose(to_floats([image])[0], np.asarray(image) / 255, atol=1e-6)
    assert to_images(torch.full((1, 3, 1, 1), 0.5 + 0.6 / 255))[0].getpixel((0, 0)) == (128,) * 3  # rounded, not cut


def test_sizes_are_width_and_height() -> None:
    assert image_pixels(Image.new("L", (6, 4), 255), (16, 32)).shape == (1, 3, 32, 16)
    assert image_pixels(Image.new("L", (6, 4), 255), (16, 32)).unique().tolist() == [1]
    assert mask_pixels(np.ones((4, 6), bool), (16, 32)).shape == (32, 16)
    assert mask_pixels(np.ones((4, 6), bool), (16, 32)).unique().tolist() == [255]


def test_mask_iou() -> None:
    assert mask_iou(INSIDE, INSIDE) == 1
    assert mask_iou(INSIDE, ~INSIDE) == 0
    assert mask_iou(INSIDE, np.ones_like(INSIDE)) == pytest.approx(0.5)
    assert mask_iou(np.zeros_like(INSIDE), np.zeros_like(INSIDE)) == 0
