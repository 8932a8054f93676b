"""Images from strangers: every kind is read as the same pixels, or refused in one sentence."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io import images
from concept_conductor.io.images import load_image, load_layer, load_mask, read_recipe, save_png

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


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(stream, kind, **options)
    return stream.getvalue()


def with_broken_mpf() -> bytes:
    """A phone's file of two images, whose list of them an editor has damaged."""
    content = bytearray(encoded("MPO", save_all=True, append_images=[Image.new("RGB", (10, 10))]))
    start = content.find(b"MPF\0") + 4
    content[start : start + 4] = b"\xff" * 4
    return bytes(content)


def with_two_values_for_one() -> bytes:
    """A TIFF whose unit of resolution is a pair."""
    content = bytearray(encoded("TIFF", dpi=(72, 72)))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry)[0] == 296:
            struct.pack_into("<I", content, entry + 4, 2)
    return bytes(content)


def animated_without_frames() -> bytes:
    """A PNG that says it is animated and has no frames."""
    content, chunk = encoded("PNG"), b"acTL" + struct.pack(">II", 0, 0)
    return content[:33] + struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


def with_short_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker" * 10
    return encoded("JPEG", exif=exif.tobytes()[:40])


def with_loops_in_exif() -> bytes:
    return encoded("JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")


@pytest.mark.parametrize(
    "content",
    [with_broken_mpf, with_two_values_for_one, animated_without_frames, with_short_exif, with_loops_in_exif],
)
def test_what_pillow_warns_about_is_read(tmp_path: Path, content: Callable[[], bytes]) -> None:
    (tmp_path / "a").write_bytes(content())
    read = np.asarray(load_image(tmp_path / "a")).astype(int)
    assert np.abs(read - np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).mean() < 12  # a JPEG's own losses
    assert load_mask(tmp_path / "a").size == load_layer(tmp_path / "a").size == (10, 10)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_format_is_read(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(encoded(kind))
    assert load_image(tmp_path / "a").size == (10, 10)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_tiffs_are_turned_once(tmp_path: Path, orientation: int, compression: str | None, mode: str) -> None:
    """Pillow itself scrambles grey ones that are not compressed and lie on their side."""
    numbers = np.arange(60, dtype=np.uint16 if mode == "I;16" else np.uint8).reshape(10, 6) * 4
    values = np.repeat(numbers[..., None], 3, axis=2) if mode == "RGB" else numbers * (257 if mode == "I;16" else 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.tif", Image.fromarray(values), exif=exif, compression=compression)
    turned = [
        numbers, numbers[:, ::-1], numbers[::-1, ::-1], numbers[::-1],
        numbers.T, np.rot90(numbers, -1), numbers[::-1, ::-1].T, np.rot90(numbers),
    ]  # fmt: skip
    assert np.array_equal(np.asarray(load_mask(path)), turned[orientation - 1])


def test_names_that_no_file_can_have() -> None:
    for name in ("x" * 300, "a\0b", "/dev/zero", "/proc/kmsg"):
        with pytest.raises(ConductorError, match="there is no image"):
            load_image(name)


@given(kind=st.sampled_from([kind for kind in images.FORMATS if kind != "AVIF"]), data=st.data())
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
