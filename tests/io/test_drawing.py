"""Contact sheets, tables of images, thumbnails and overlays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io.drawing import (
    CAPTION_HEIGHT,
    TABLE_GAP,
    TABLE_TEXT,
    contact_sheet,
    image_table,
    mask_as_image,
    mask_overlay,
    scaled,
    thumbnail,
)
from concept_conductor.io.fonts import fitting, font

RED = (255, 0, 0)


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


def test_a_table_of_images() -> None:
    """Each image fills a square cell along its longer side; an empty cell stays white."""
    rows = [("first", [Image.new("RGB", (10, 10), RED), None]), ("second", [None, Image.new("RGB", (20, 10), "blue")])]
    line, cell = TABLE_TEXT + 5, 40
    sheet = image_table(rows, cell, ["left", "right"], "title")
    assert sheet.size == (2 * (cell + TABLE_GAP) + TABLE_GAP, TABLE_GAP + 2 * line + 2 * (line + cell + TABLE_GAP))
    top = TABLE_GAP + 3 * line
    pixels = np.asarray(sheet)
    assert (pixels[top : top + cell, TABLE_GAP : TABLE_GAP + cell] == RED).all()
    assert (pixels[top : top + cell, 2 * TABLE_GAP + cell :] == 255).all()
    below = top + cell + TABLE_GAP + line
    blue = (pixels == (0, 0, 255)).all(2)
    assert blue[below : below + cell // 2, 2 * TABLE_GAP + cell : -TABLE_GAP].all()
    assert blue.sum() == cell * cell // 2


def test_captions_of_a_table_stand_beside_their_rows() -> None:
    sheet = image_table([("a dog\nclusters", [Image.new("RGB", (10, 10), RED)])] * 2, 60, left=100)
    assert sheet.size == (100 + 60 + 2 * TABLE_GAP, TABLE_GAP + 2 * (60 + TABLE_GAP))
    dark = np.asarray(sheet)[:, :100].sum(2) < 500
    lines = [dark[TABLE_GAP + index * (TABLE_TEXT + 5) :][: TABLE_TEXT + 5].any() for index in range(3)]
    assert lines == [True, True, False]  # two lines of the first row
    assert (np.asarray(sheet)[TABLE_GAP : TABLE_GAP + 60, 100 + TABLE_GAP : -TABLE_GAP] == RED).all()


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("rank $x_{$ [/b] <i>&amp;", "rank $x_{$ [/b] <i>&amp;"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[2Jbell\x07", r"\x1b[2Jbell\x07"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_text_is_drawn_as_text(text: str, drawn: str) -> None:
    """Nobody's markup, formulas, line ends or control characters act."""
    assert fitting(text, 400, 10) == drawn


def test_long_text_is_cut_at_once() -> None:
    cut = fitting("word " * 1_000_000, 100, 10)
    assert cut.endswith("…") and 60 < font(10).getlength(cut) <= 100


def test_scaled_and_masks() -> None:
    assert scaled(Image.new("RGB", (300, 100)), 60).size == (60, 20)
    assert scaled(Image.new("RGB", (1, 1000)), 10).size == (1, 10)
    mask = np.array([[True, False]])
    assert np.array_equal(np.asarray(mask_as_image(mask)), [[255, 0]])
    assert np.array_equal(np.asarray(mask_as_image(mask, (4, 1))), [[255, 255, 0, 0]])
