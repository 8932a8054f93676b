"""Pixels of every mode come out right, upright and of 8 bits, or are refused in one sentence."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from concept_conductor.errors import ConductorError
from concept_conductor.io import image_modes
from concept_conductor.io.image_modes import TURN, TURNS, to_grey, to_layer, to_rgb
from concept_conductor.io.images import load_image, load_layer, load_mask

RED = (255, 0, 0)
WHITE = (255, 255, 255)


def stored(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """The image as it is read from a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return Image.open(io.BytesIO(stream.getvalue()))


def test_transparency_is_laid_on_white_for_images_and_on_black_for_masks() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 255, 255, 255))
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [WHITE] * 2
    assert [to_grey(image).getpixel((x, 0)) for x in (0, 1)] == [0, 255]
    assert to_layer(image).mode == "RGBA"
    assert to_layer(image.convert("RGB")).mode == "RGB"


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (Image.fromarray(np.array([[0, 1]], np.uint8), "P"), bytes([0, 255])),
        (Image.fromarray(np.array([[9, 200]], np.uint8)), 9),
        (Image.fromarray(np.array([[9, 51_400]], np.uint16)), 9),
        (Image.fromarray(np.array([[[9, 9, 9], [200, 200, 200]]], np.uint8)), (9, 9, 9)),
        (Image.fromarray(np.array([[False, True]])), 0),
    ],
    ids=["palette", "grey", "16 bits", "colour", "1 bit"],
)
def test_one_transparent_colour(image: Image.Image, transparency: object) -> None:
    if image.mode == "P":
        image.putpalette([9, 9, 9, 200, 200, 200])
    read = stored(image, "PNG", transparency=transparency)
    shown = 255 if image.mode == "1" else 200
    assert [to_grey(read).getpixel((x, 0)) for x in (0, 1)] == [0, shown]
    assert [to_rgb(read).getpixel((x, 0)) for x in (0, 1)] == [WHITE, (shown,) * 3]
    assert [to_layer(read).getchannel("A").getpixel((x, 0)) for x in (0, 1)] == [0, 255]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257 * 128, 128), (65535, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_rather_than_clipped(value: int, expected: int, kind: str) -> None:
    image = stored(Image.fromarray(np.full((2, 2), value, np.uint16)), kind)
    assert to_rgb(image).getpixel((0, 0)) == (expected,) * 3
    assert to_grey(image).getpixel((1, 1)) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5], 128),
        ([0.0, 0.001], 0),
        ([0.0, 200.0], 200),
        ([0.0, 65535.0], 255),
        ([0, 1], 255),
        ([0, 200], 200),
        ([0, 257 * 128], 128),
    ],
)
def test_wide_numbers_are_read_in_the_range_they_reach(values: list[float], expected: int) -> None:
    image = Image.fromarray(np.array([values], np.int32 if isinstance(values[0], int) else np.float32))
    assert to_grey(image).getpixel((1, 0)) == expected


@pytest.mark.parametrize(
    "values", [[-1.0, 1.0], [0.0, 1.2], [0.0, 300.0], [0.0, 1e9], [0.0, float("nan")], [0.0, float("inf")], [-5, 9]]
)
def test_numbers_in_no_known_range_are_refused(tmp_path: Path, values: list[float]) -> None:
    image = Image.fromarray(np.array([values], np.int32 if isinstance(values[0], int) else np.float32))
    image.save(tmp_path / "a.tif")
    with pytest.raises(ConductorError, match="a.tif' holds numbers .*expected 0 to 1, 0 to 255 or 0 to 65535"):
        load_mask(tmp_path / "a.tif")


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    for name in ("a.jpg", "a.tif"):
        red, green, blue = load_image(tmp_path / name).getpixel((4, 4))
        assert red > 240
        assert max(green, blue) < 15
        assert load_mask(tmp_path / name).getpixel((4, 4)) == pytest.approx(76, abs=5)  # red's lightness


@pytest.mark.parametrize("load", [load_image, load_mask, load_layer])
def test_lab(tmp_path: Path, load: object) -> None:
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8))
    ImageCms.profileToProfile(image, *profiles, outputMode="LAB").save(tmp_path / "mask.tif")
    read = np.asarray(load(tmp_path / "mask.tif").convert("L"))  # type: ignore[operator]
    assert read[0, 0] < 3 and read[0, 1] > 252


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "La", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_in_memory(mode: str) -> None:
    """White is white and black black, whatever they are made of."""
    through = {"La": "LA", "PA": "LA", "RGBa": "RGBA"}.get(mode, mode)
    image = Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)).convert(through).convert(mode)
    assert [to_rgb(image).getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), WHITE]
    assert [to_grey(image).getpixel((x, 0)) for x in (0, 1)] == [0, 255]


@pytest.mark.parametrize("strip_pixels", [1, 15, 2**20])
@pytest.mark.parametrize("orientation", [None, *TURNS])
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_images_are_turned_as_their_exif_says(
    orientation: int | None, strip_pixels: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_modes, "STRIP_PIXELS", strip_pixels)
    pixels = np.random.default_rng(0).integers(0, 255, (7, 5, 3), np.uint8)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    image = stored(Image.fromarray(pixels), kind, exif=exif, lossless=True)
    turned = [
        pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1],
        pixels.swapaxes(0, 1), np.rot90(pixels, -1), pixels[::-1, ::-1].swapaxes(0, 1), np.rot90(pixels),
    ]  # fmt: skip
    read = to_rgb(image)
    assert np.array_equal(np.asarray(read), turned[(orientation or 1) - 1])
    assert read.info.get(TURN) == TURNS.get(orientation or 1)
    assert np.array_equal(np.asarray(to_rgb(read)), np.asarray(read))  # once
    assert to_rgb(read).info.get(TURN) == TURNS.get(orientation or 1)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    image = Image.new("RGB", (3, 2), RED)
    image.getexif()[0x0112] = value
    assert to_rgb(image).size == (3, 2)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert load_image(tmp_path / name).getpixel((0, 0)) == RED


def test_no_pixels() -> None:
    with pytest.raises(ConductorError, match="has no pixels"):
        to_rgb(Image.new("RGB", (0, 4)))
