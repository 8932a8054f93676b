"""What an image file may cost, judged from its headers before anything is decoded."""

from __future__ import annotations

import mmap
import os
import re
from typing import BinaryIO

from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile

from concept_conductor.errors import ConductorError

MAX_PIXELS = 2**26
"""Largest image that is decoded: 67 million pixels, 8192 x 8192."""

MAX_WEBP_PIXELS = MAX_PIXELS // 2
"""Largest WebP: decoding keeps three more copies of it, in case it is an animation."""

MAX_BYTES = 2**30
"""Largest image file: twice what 67 million pixels of four 16-bit channels take."""

MAX_SCANNED = 2**31
"""Pixels of all scans of a JPEG together: 32 scans of the largest image. A progressive JPEG is decoded as a whole for
each of its scans, which may have a hundred bytes; usual ones have about ten."""
LEAST_SCANNED = 2**21
"""What a scan of a small JPEG counts as: each has costs of its own."""

MAX_COVERED = 8
"""How often an image's tiles may cover it; where channels lie apart they do so up to five times."""
MAX_TILE = 2**22
"""Pixels that a TIFF's tile may have in any image: it is decoded whole, however small the image."""

# ff with anything but a stuffed zero, a restart or another ff starts a segment, within a scan's data too
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
_WITHOUT_LENGTH = (0x01, 0xD8)
_END, _SCAN = 0xD9, 0xDA


def check_cost(image: ImageFile, file: BinaryIO) -> None:
    """Refuse an image whose decoding would take far more memory or time than its pixels need.

    Args:
        image: opened by Pillow from ``file``, not yet decoded.

    Raises:
        ConductorError: what is wrong, in words that follow on the file's name.
    """
    pixels, most = image.width * image.height, MAX_WEBP_PIXELS if image.format == "WEBP" else MAX_PIXELS
    if pixels > most:
        raise ConductorError(f"has {pixels:,} pixels, but at most {most:,} are read; make it smaller first")
    if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
        raise ConductorError(f"has {size:,} bytes, but at most {MAX_BYTES:,} are read; make it smaller first")
    if image.format in ("JPEG", "MPO"):
        most = MAX_SCANNED // max(pixels, LEAST_SCANNED)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            scans = count_scans(content, most + 1)
        if scans > most:
            raise ConductorError(
                f"is a JPEG of more than {most} scans, which could take hours to decode; usual ones have about ten, "
                "save it again"
            )
    parts = [tile.extents or (0, 0, 0, 0) for tile in image.tile]
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in parts)
    if covered > MAX_COVERED * pixels:
        raise ConductorError(f"has parts that cover it {covered // pixels} times; expected once, save it again")
    if isinstance(image, TiffImageFile):
        width, length = (int(image.tag_v2.get(tag, 0)) for tag in (TILEWIDTH, TILELENGTH))
        if width * length > max(MAX_TILE, 2 * pixels):
            raise ConductorError(
                f"has tiles of {width}x{length} pixels for an image of {image.width}x{image.height}; save it again"
            )


def count_scans(content: bytes | mmap.mmap, most: int) -> int:
    """Count the scans of the first image in a JPEG file, up to ``most``.

    Thumbnails and further images in it do not count, nor does what looks like a scan within metadata.
    """
    scans, position = 0, 2
    while scans < most and (found := _MARKER.search(content, position)):
        kind, position = found[1][0], found.end()
        if kind == _END:
            break
        scans += kind == _SCAN
        if kind not in _WITHOUT_LENGTH:
            position += int.from_bytes(content[position : position + 2], "big")
    return scans
