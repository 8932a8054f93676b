"""Small files that would cost much are refused before anything is decoded."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io import image_limits
from concept_conductor.io.image_limits import count_scans
from concept_conductor.io.images import load_image


def jpeg(scans_more: int = 0, **options: object) -> bytes:
    """A progressive JPEG whose last scan is written so many times more."""
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(stream, "JPEG", progressive=True, **options)
    content = stream.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + last * scans_more + b"\xff\xd9"


def test_a_jpeg_of_too_many_scans_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = count_scans(jpeg(), 1000)
    assert 8 <= usual <= 12
    assert count_scans(jpeg(100), 1000) == usual + 100
    (tmp_path / "usual.jpg").write_bytes(jpeg())
    (tmp_path / "bomb.jpg").write_bytes(jpeg(2000))
    assert load_image(tmp_path / "usual.jpg").size == (64, 64)
    with pytest.raises(ConductorError, match="is a JPEG of more than 1024 scans"):
        load_image(tmp_path / "bomb.jpg")
    monkeypatch.setattr(image_limits, "LEAST_SCANNED", 1)
    assert load_image(tmp_path / "bomb.jpg").size == (64, 64)  # few pixels: it is the count that is refused


def test_only_the_first_image_of_a_jpeg_counts(tmp_path: Path) -> None:
    """A thumbnail and a phone's second image have scans of their own; a comment may look like one."""
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda" * 40
    assert count_scans(jpeg(exif=exif, comment=b"\xff\xda" * 2000), 9999) == count_scans(jpeg(), 9999)
    assert count_scans(jpeg() + jpeg(100), 9999) == count_scans(jpeg(), 9999)


def test_a_tiff_that_is_decoded_again_and_again_is_refused(tmp_path: Path) -> None:
    """Every strip of it is half of the image; each costs four bytes of file."""
    strips, width, height = 40, 64, 64
    offsets = 8
    pixels = offsets + 4 * strips
    directory = pixels + width * height
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, strips, offsets), (277, 3, 1, 1), (278, 3, 1, height // 2), (279, 4, 1, width * height),
    ]  # fmt: skip
    content = b"II*\0" + struct.pack("<I", directory) + struct.pack("<I", pixels) * strips + bytes(width * height)
    content += struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ConductorError, match="has parts that cover it 20 times"):
        load_image(tmp_path / "a.tif")


def test_a_tile_far_larger_than_its_image_is_refused(tmp_path: Path) -> None:
    tags = [
        (256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, 40_000), (323, 4, 1, 40_000), (324, 4, 1, 8), (325, 4, 1, 9),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + directory)
    with pytest.raises(ConductorError, match="has tiles of 40000x40000 pixels for an image of 8x8"):
        load_image(tmp_path / "a.tif")


def test_large_files_and_webps_have_limits_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.webp")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr(image_limits, "MAX_WEBP_PIXELS", 80)
    with pytest.raises(ConductorError, match="has 81 pixels, but at most 80 are read"):
        load_image(tmp_path / "a.webp")
    assert load_image(tmp_path / "a.png").size == (9, 9)
    monkeypatch.setattr(image_limits, "MAX_BYTES", 20)
    with pytest.raises(ConductorError, match="bytes, but at most 20 are read"):
        load_image(tmp_path / "a.png")
