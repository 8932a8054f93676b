"""Images from strangers: every kind is read as the same pixels, or refused in one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_conductor import Layout, Placement
from concept_conductor.errors import ConductorError
from concept_conductor.io import images
from concept_conductor.io.drawing import contact_sheet, mask_overlay, thumbnail
from concept_conductor.io.images import CAPTION_HEIGHT, load_image, load_mask, read_recipe, save_png
from concept_conductor.io.tensors import mask_pixels

RED = (255, 0, 0)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly a pixel to show for it."""
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99)))):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


def test_transparency_is_laid_on_white_for_images_and_on_black_for_masks(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 255, 255, 255))
    path = saved(tmp_path / "a.png", image)
    assert [load_image(path).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255)] * 2
    assert [load_mask(path).getpixel((x, 0)) for x in (0, 1)] == [0, 255]


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path / "a.png", image, transparency=bytes([0, 255]))
    assert [load_image(path).getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), RED]


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257 * 128, 128), (65535, 255)])
def test_sixteen_bits_are_scaled_rather_than_clipped(tmp_path: Path, value: int, expected: int) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(np.full((2, 2), value, np.uint16)))
    assert load_image(path).getpixel((0, 0)) == (expected,) * 3
    assert load_mask(path).getpixel((1, 1)) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.5, 128), (200.0, 200), (65535.0, 255)])
def test_floating_point_images(tmp_path: Path, value: float, expected: int) -> None:
    path = saved(tmp_path / "a.tiff", Image.fromarray(np.full((2, 2), value, np.float32)))
    assert load_mask(path).getpixel((0, 0)) == expected


def test_cmyk(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    red, green, blue = load_image(path).getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2))
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = saved(tmp_path / "a.png", image, exif=exif)
    upright = load_image(path)
    assert upright.size == (2, 3)
    assert upright.getpixel((1, 0)) == RED


def test_damaged_exif_leaves_the_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), RED), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    assert load_image(path).size == (8, 8)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert load_image(path).getpixel((0, 0)) == RED


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (8193, 8192)])
def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(png_header(*size))
    with pytest.raises(ConductorError, match=f"has {size[0] * size[1]:,} pixels, but at most 67,108,864 are read"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is no image"), (b"not an image", "is no image"), (b"%!PS-Adobe-3.0 EPSF-3.0", "is no image")],
)
def test_what_is_no_image(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ConductorError, match=message):
        load_image(tmp_path / "a.png")


def test_missing_and_truncated(tmp_path: Path) -> None:
    with pytest.raises(ConductorError, match="there is no image"):
        load_image(tmp_path / "a.png")
    with pytest.raises(ConductorError, match="there is no image"):
        load_image(tmp_path)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    whole = saved(tmp_path / "b.png", noise).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConductorError, match="damaged or incomplete"):
        load_image(tmp_path / "b.png")


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(stream, kind)
    return stream.getvalue()


@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_gives_an_image_or_one_clear_error(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(encoded(kind))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    for load in (load_image, load_mask):
        try:
            load(path)
        except ConductorError as error:
            assert len(str(error).splitlines()) == 1


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3000))
@settings(max_examples=30, deadline=None)
def test_a_recipe_goes_into_a_png_and_comes_out(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.png"
    save_png(Image.new("RGB", (2, 2)), path, {images.RECIPE_KEY: text})
    assert read_recipe(path) == text


def test_every_png_says_that_it_was_generated(tmp_path: Path) -> None:
    with Image.open(save_png(Image.new("RGB", (2, 2)), tmp_path / "a.png")) as image:
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]


def test_images_without_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConductorError, match="carries no recipe"):
        read_recipe(saved(tmp_path / "a.png", Image.new("RGB", (2, 2))))
    with pytest.raises(ConductorError, match="no PNG"):
        read_recipe(saved(tmp_path / "a.jpg", Image.new("RGB", (2, 2))))
    with pytest.raises(ConductorError, match="there is no image"):
        read_recipe(tmp_path / "none.png")


def test_a_recipe_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    save_png(Image.new("RGB", (2, 2)), tmp_path / "a.png", {images.RECIPE_KEY: "x" * 5_000_000})
    with pytest.raises(ConductorError, match="no PNG that can be read|characters"):
        read_recipe(tmp_path / "a.png")


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_png(Image.new("RGB", (2, 2), RED), tmp_path / "a.png")
    before = path.read_bytes()

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(ConductorError, match="the disk is full"):
        save_png(Image.new("RGB", (2, 2)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("count", "columns", "cells"), [(1, None, (1, 1)), (4, None, (2, 2)), (5, None, (3, 2)), (3, 8, (3, 1))]
)
def test_contact_sheet(count: int, columns: int | None, cells: tuple[int, int]) -> None:
    sheet = contact_sheet([Image.new("RGB", (10, 6), RED)] * count, columns, gap=2)
    assert sheet.size == (cells[0] * 12 + 2, cells[1] * 8 + 2)
    assert sheet.getpixel((2, 2)) == RED
    assert sheet.getpixel((0, 0)) == (255, 255, 255)


def test_captions_stay_above_their_images() -> None:
    sheet = contact_sheet([Image.new("RGB", (60, 40), RED)] * 2, 2, gap=6, captions=["a dog", "a word " * 99])
    assert sheet.size == (2 * 66 + 6, 40 + CAPTION_HEIGHT + 2 * 6)
    pixels = np.asarray(sheet).astype(int)
    written = pixels.sum(2) < 600
    written[6 + CAPTION_HEIGHT :] = False
    columns = np.flatnonzero(written.any(0))
    assert written[:, 6:66].any() and written[:, 72:132].any()
    assert not written[:, 66:72].any() and columns.max() < 132  # a long one is cut at its cell's edge
    assert (pixels[6 + CAPTION_HEIGHT : -6, 6:66] == RED).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (256, 256)),
        ((100, 40), (300, 120)),
        ((1, 1), (256, 256)),
        ((255, 255), (510, 510)),
        ((256, 9), (256, 9)),
        ((512, 64), (512, 64)),
        ((1024, 512), (512, 256)),
    ],
)
def test_thumbnails_can_be_seen_and_leave_the_image_alone(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = Image.new("RGB", size, RED)
    assert thumbnail(image, 512).size == expected
    assert image.size == size


def test_an_empty_contact_sheet_is_an_error() -> None:
    with pytest.raises(ConductorError, match="at least one image"):
        contact_sheet([])


def test_overlay_tints_only_the_masks() -> None:
    masks = np.zeros((2, 2, 2), bool)
    masks[0, 0, 0] = masks[1, 1, 1] = True
    overlay = mask_overlay(Image.new("RGB", (4, 4), "white"), masks)
    assert overlay.getpixel((3, 0)) == (255, 255, 255)
    assert overlay.getpixel((0, 0)) != overlay.getpixel((3, 3)) != (255, 255, 255)


def test_images_in_memory_are_read_like_files() -> None:
    """Upright, transparency on white (masks: outside), 16 bits brought to 8."""
    turned = Image.new("RGB", (4, 2), "red")
    turned.getexif()[0x0112] = 6
    assert Layout(turned, "red", points=[(0, 0)]).image.size == (2, 4)
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    layout = Layout(clear, "nothing", masks=[clear])
    assert layout.image.mode == "RGB" and layout.image.getpixel((0, 0)) == (255, 255, 255)
    assert not mask_pixels(clear, (8, 8)).any()
    deep = Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))
    assert mask_pixels(deep, (4, 4)).unique().tolist() == [156]
    assert Placement(clear, deep).image.getpixel((3, 3)) == (255, 255, 255)
