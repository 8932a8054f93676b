"""Training folders: images, their masks and captions, and what is said of those that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.training.dataset import read_folder
from tests.training.conftest import draw


def test_a_folder_with_everything(photos: Path) -> None:
    examples = read_folder(photos)
    assert [example.name for example in examples] == ["0", "1", "2"]
    assert examples[0].caption == "a <TOK> on the beach, red, square"
    assert examples[0].mask is not None
    assert examples[0].mask.getbbox() == (10, 20, 35, 51)


def test_masks_and_captions_may_be_absent(tmp_path: Path) -> None:
    plain = read_folder(draw(tmp_path / "plain", 1, masks=False, captions=False))
    assert (plain[0].mask, plain[0].caption) == (None, None)
    some = draw(tmp_path / "some", 2)
    (some / "0.txt").unlink()
    (some / "masks" / "1.png").unlink()
    first, second = read_folder(some)
    assert first.caption is None
    assert second.mask is None


def test_masks_may_lie_elsewhere(photos: Path) -> None:
    (photos / "masks").rename(photos.parent / "outlines")
    assert read_folder(photos)[0].mask is None
    assert read_folder(photos, photos.parent / "outlines")[0].mask is not None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            lambda folder: (folder / "masks" / "9.png").write_bytes((folder / "masks/0.png").read_bytes()),
            "belongs to no image",
        ),
        (lambda folder: (folder / "9.txt").write_text("a <TOK>"), "belongs to no image"),
        (lambda folder: (folder / "0.txt").write_text("a dog"), "<TOK> was expected"),
        (lambda folder: (folder / "0.txt").write_text(""), "<TOK> was expected"),
        (lambda folder: (folder / "0.txt").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (lambda folder: (folder / "0.png").write_bytes(b"no image"), r"0\.png"),
        (lambda folder: (folder / "0.jpg").write_bytes((folder / "0.png").read_bytes()), "same stem"),
        (lambda folder: Image.new("L", (64, 64)).save(folder / "masks" / "0.png"), "empty"),
        (lambda folder: Image.new("L", (64, 32), 255).save(folder / "masks" / "0.png"), "same shape"),
        (lambda folder: [draw_many(folder)], "33 images"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(photos: Path, harm: object, words: str) -> None:
    harm(photos)  # type: ignore[operator]
    with pytest.raises(ConductorError, match=words):
        read_folder(photos)


def draw_many(folder: Path) -> None:
    for index in range(30):
        (folder / f"more{index}.png").write_bytes((folder / "0.png").read_bytes())


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(ConductorError, match="no folder"):
        read_folder(tmp_path / "nothing")
    with pytest.raises(ConductorError, match="0 images"):
        read_folder(tmp_path)
    with pytest.raises(ConductorError, match="no folder of masks"):
        read_folder(draw(tmp_path / "photos", 1), tmp_path / "nothing")
