"""Collages: geometry, order, and masks that are exactly what is seen."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from concept_conductor import Collage, Cutout, Layout
from concept_conductor.errors import ConductorError
from concept_conductor.io.images import load_layer
from concept_conductor.layouts import collage as collage_module
from concept_conductor.mini.designs import Atlas

SKY = (135, 181, 224)
COLOURS = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]


def block(number: int, width: int = 6, height: int = 4, **where: object) -> Cutout:
    """An opaque rectangle in a colour of its own; ``where`` as for Cutout."""
    return Cutout(Image.new("RGBA", (width, height), COLOURS[number]), **where)


def shape(seed: int) -> Image.Image:
    """Ragged and partly transparent."""
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    pixels[4, 3, 3] = 255
    return Image.fromarray(pixels)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


places = st.tuples(st.floats(2, 38), st.floats(2, 28))


@st.composite
def cutouts(draw: st.DrawFn) -> list[Cutout]:
    """One to five blocks of different colours, turned by right angles, in any order."""
    return [
        block(
            number,
            draw(st.integers(1, 30)),
            draw(st.integers(1, 30)),
            position=draw(places),
            rotation=draw(st.sampled_from([0, 90, 180, 270])),
            flip=draw(st.booleans()),
            z=draw(st.integers(-2, 2)),
        )
        for number in range(draw(st.integers(1, 5)))
    ]


def made(cutouts: list[Cutout]) -> Collage | None:
    """The collage of those that are seen."""
    try:
        return Collage("#87b5e0", cutouts, (40, 30))
    except ConductorError as error:
        assert "wholly covered" in str(error)
        return None


@given(cutouts())
@settings(max_examples=60, deadline=None)
def test_masks_are_disjoint_and_exactly_the_visible_pixels(cutouts: list[Cutout]) -> None:
    collage = made(cutouts)
    if collage is None:
        return
    for number, mask in enumerate(collage.masks):
        assert np.array_equal(mask, (pixels(collage.image) == COLOURS[number]).all(-1))
    assert np.stack(collage.masks).sum(0).max() == 1
    assert ((pixels(collage.image) == SKY).all(-1) == ~np.stack(collage.masks).any(0)).all()


@given(
    *[st.floats(allow_nan=False, allow_infinity=False)] * 3,
    st.floats(0, exclude_min=True, allow_infinity=False),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_numbers_give_a_collage_or_one_clear_error(
    x: float, y: float, angle: float, scale: float, strip: bool
) -> None:
    size = (20_000, 1) if strip else (4, 4)
    with suppress(ConductorError):
        Collage(
            "#87b5e0", [Cutout(Image.new("RGBA", size, "red"), position=(x, y), rotation=angle, scale=scale)], (40, 30)
        )


def test_a_long_strip_is_not_turned() -> None:
    strip = Cutout(Image.new("RGBA", (60_000, 4), "red"), rotation=45)
    with pytest.raises(ConductorError, match="60000x4 pixels turned by 45 degrees would need 1.8e.09 pixels"):
        strip.drawn()
    assert replace(strip, rotation=90).drawn().size == (4, 60_000)


@given(cutouts(), st.randoms())
@settings(max_examples=30, deadline=None)
def test_where_all_heights_differ_the_order_in_the_list_changes_nothing_but_the_masks_order(
    cutouts: list[Cutout], random: object
) -> None:
    stacked = [replace(cutout, z=height) for height, cutout in enumerate(cutouts)]
    order = list(range(len(stacked)))
    random.shuffle(order)  # type: ignore[attr-defined]
    one, other = made(stacked), made([stacked[index] for index in order])
    assert (one is None) == (other is None)
    if one is not None and other is not None:
        assert one.image == other.image
        assert all(np.array_equal(one.masks[index], mask) for index, mask in zip(order, other.masks))


@given(st.integers(0, 99), places, st.floats(0.5, 3))
@settings(max_examples=30, deadline=None)
def test_flipping_twice_and_turning_full_circle_change_nothing(
    seed: int, place: tuple[float, float], scale: float
) -> None:
    once = Cutout(shape(seed), position=place, scale=scale)
    flipped = replace(once, flip=True).drawn()
    assert replace(once, image=flipped, scale=1.0, flip=True).drawn() == once.drawn()
    assert pixels(flipped)[:, ::-1].tolist() == pixels(once.drawn()).tolist()
    assert replace(once, rotation=360).drawn() == once.drawn()
    turned = once
    for _ in range(4):
        turned = replace(turned, image=replace(turned, rotation=90).drawn(), scale=1.0)
    assert turned.drawn() == once.drawn()


def test_a_turn_is_clockwise() -> None:
    wide = Image.new("RGBA", (4, 2), (255, 0, 0, 255))
    wide.putpixel((0, 0), (0, 255, 0, 255))  # upper left goes to the upper right
    assert Cutout(wide, rotation=90).drawn().getpixel((1, 0)) == (0, 255, 0, 255)


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([0, 90]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_fitted_cutout_stands_in_its_box_and_fills_it_one_way(
    width: int, height: int, rotation: int, flip: bool
) -> None:
    box = (4, 6, 34, 26)
    fitted = block(0, width, height, rotation=rotation, flip=flip).fitted(box)
    (mask,) = Collage("black", [fitted], (40, 30)).masks
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert abs(rows[-1] + 1 - box[3]) <= 1
    assert abs((columns[0] + columns[-1] + 1) / 2 - 19) <= 1
    assert rows[0] >= box[1] - 1 and columns[0] >= box[0] - 1 and columns[-1] <= box[2]
    assert abs(len(rows) - 20) <= 1 or abs(len(columns) - 30) <= 1


def test_a_cutout_is_trimmed_and_stays_where_it_is_in_its_own_image() -> None:
    image = Image.new("RGBA", (20, 20))
    image.paste((1, 2, 3, 255), (2, 5, 8, 9))
    cutout = Cutout(image)
    assert cutout.image.size == (6, 4)
    assert cutout.position == (5, 7)
    (mask,) = Collage("white", [cutout], (20, 20)).masks
    assert np.array_equal(mask, pixels(image)[..., 3] > 0)


def test_a_mask_cuts_out_of_what_its_image_shows() -> None:
    image = Image.new("RGBA", (4, 4), (9, 9, 9, 255))
    image.putpixel((1, 1), (0, 0, 0, 0))
    mask = np.zeros((4, 4), dtype=bool)
    mask[:2, :2] = True
    assert pixels(Cutout(image, mask).image)[..., 3].tolist() == [[255, 255], [255, 0]]
    assert Cutout(image.convert("RGB"), mask).image.size == (2, 2)


def test_edges_do_not_darken_when_scaled() -> None:
    disc = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    disc.paste((255, 255, 255, 255), (5, 5, 25, 25))
    drawn = pixels(Cutout(disc, scale=0.43, rotation=30).drawn())
    assert (drawn[drawn[..., 3] > 0][:, :3] >= 250).all()


def test_scenery_covers_but_has_no_mask() -> None:
    tree = block(1, position=(6, 10), scenery=True)
    collage = Collage("white", [block(0, 10, 10, position=(10, 10)), tree], (20, 20))
    (mask,) = collage.masks
    assert mask.sum() == 100 - 16
    assert collage.image.getpixel((6, 10)) == COLOURS[1]


def test_a_background_image_is_cropped_to_the_size_asked_for() -> None:
    background = Image.new("RGB", (60, 20), "red")
    background.paste("blue", (20, 0, 40, 20))
    collage = Collage(background, [block(2, 2, 2, position=(5, 5))], (30, 30))
    assert collage.image.getpixel((20, 20)) == (0, 0, 255)
    assert Collage(background, [block(2, position=(5, 5))]).image.size == (60, 20)


def test_a_collage_is_a_layout() -> None:
    layout = Layout.from_collage(
        Collage("white", [block(0, position=(9, 9)), block(1, position=(30, 9))], (40, 30)), "two"
    )
    assert (layout.kind, layout.prompt, layout.image.size) == ("masks", "two", (40, 30))
    assert [int(np.asarray(mask).sum()) for mask in layout.masks or ()] == [24, 24]


def test_a_drawing_of_the_sticker_world_is_found_where_it_was_put() -> None:
    """Real drawings with soft edges: of all pixels that differ from the background nearly all are in the mask."""
    atlas = Atlas.load()
    dog = Image.fromarray(atlas.cells[atlas.index("dog/noto")])
    collage = Collage("#87b5e0", [Cutout(dog, scale=0.4, rotation=12, position=(30, 30))], (64, 64))
    differs = (pixels(collage.image) != SKY).any(-1)
    (mask,) = collage.masks
    assert not (mask & ~differs).any()
    assert mask.sum() / differs.sum() > 0.8  # the rest is the soft edge's outer half


@pytest.mark.parametrize(
    ("cutouts", "sentence"),
    [
        ([], "a collage needs at least one cut-out"),
        ([block(0, position=(900, 9))], r"cut-out 1 of 1 lies outside of the collage of 40x30 pixels.*\(900, 9\)"),
        ([block(0, position=(9, 9)), block(1, 20, 20, position=(9, 9))], "cut-out 1 of 2 is wholly covered by others"),
    ],
)
def test_cutouts_that_would_not_be_seen(cutouts: list[Cutout], sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        Collage("white", cutouts, (40, 30))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image": Image.new("RGB", (4, 4))}, "needs an image with transparency"),
        ({"image": Image.new("RGBA", (4, 4))}, "nothing of the cut-out is visible"),
        ({"mask": np.zeros((4, 6))}, "nothing of the cut-out is visible"),
        ({"mask": np.ones((5, 6))}, "has 6x4 pixels, but its mask 6x5; expected the same"),
        ({"scale": 0.0}, "scale must be larger than 0"),
        ({"scale": float("nan")}, "scale must be larger than 0"),
        ({"scale": 1e9}, "at most 67,108,864 are drawn"),
        ({"position": (float("inf"), 0)}, "must be finite"),
        ({"image": "dog.png"}, "there is no image 'dog.png'"),
    ],
)
def test_what_is_no_cutout(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        Cutout(**{"image": Image.new("RGBA", (6, 4), "red"), **arguments})


@pytest.mark.parametrize(
    ("background", "size", "sentence"),
    [
        ("white", None, "needs a size"),
        ("no colour", (9, 9), "'no colour' is no colour"),
        ("white", (10**5, 10**5), "expected 1 to 67,108,864 pixels in all"),
        ("white", (0, 5), "a collage of 0x5 pixels"),
    ],
)
def test_backgrounds_that_cannot_be_drawn(background: str, size: tuple[int, int] | None, sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        Collage(background, [block(0, position=(3, 3))], size)


def test_masks_are_not_held_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collage_module, "MOST_MASKED", 2 * 40 * 30)
    objects = [block(number, 4, 4, position=(8 * number + 5, 9)) for number in range(3)]
    said = r"the 3 masks of a collage of 40x30 pixels would have 3,600 pixels, but at most 2,400 are held together"
    with pytest.raises(ConductorError, match=said):
        Collage("white", objects, (40, 30))
    assert len(Collage("white", [*objects[:2], replace(objects[2], scenery=True)], (40, 30)).masks) == 2


def test_files_keep_their_transparency(tmp_path: Path) -> None:
    shape(0).save(tmp_path / "a.png")
    Image.new("RGB", (3, 3)).save(tmp_path / "b.png")
    assert load_layer(tmp_path / "a.png") == shape(0)
    assert load_layer(tmp_path / "b.png").mode == "RGB"
