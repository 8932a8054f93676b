"""Placements: where objects are found, what may change, and the layout that goes with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from concept_conductor import Add, ConceptConductorPipeline, ConductorError, Cutout, Inversion, Placement, Replace
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.mini.arrangements import Arrangement, arrange
from concept_conductor.mini.presets import CPU
from concept_conductor.placement.placement import Placed
from tests.conftest import tiny_image

PROMPT = "a dog and a robot on the grass"
WHITE = Image.new("L", (64, 64), "white")


@pytest.fixture(scope="module")
def scene() -> Arrangement:
    """A dog, left, and a robot."""
    return arrange(CPU.world(), ["dog", "robot"], "grass", seed=3)


@pytest.fixture(scope="module")
def judge() -> JudgeGrounder:
    return JudgeGrounder()


def block(width: int = 8, height: int = 8, **where: Any) -> Cutout:
    return Cutout(Image.new("RGBA", (width, height), (200, 0, 0)), **where)


def area(placed: Placed) -> np.ndarray:
    return np.asarray(placed.placement.mask)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_objects_are_found_by_words_and_by_points(scene: Arrangement, judge: JudgeGrounder) -> None:
    image = scene.image
    dog, robot = (np.asarray(mask) for mask in scene.masks)
    rows, columns = np.nonzero(dog)
    middle = (float(columns.mean()), float(rows.mean()))
    placed = Placement.from_objects(image, PROMPT, [Replace(words="a robot"), Replace(point=middle)], judge)
    for exact, mask in zip((robot, dog), placed.layout.masks or (), strict=True):
        assert iou(exact, np.asarray(mask)) > 0.7
    assert placed.layout.image.tobytes() == image.tobytes() and placed.layout.prompt == PROMPT
    found = np.any(placed.layout.masks, axis=0)
    assert (area(placed) >= found).all() and area(placed).sum() > 1.3 * found.sum()


def test_what_was_drawn_is_what_may_change(scene: Arrangement) -> None:
    drawn = np.zeros((64, 64), dtype=bool)
    drawn[5:20, 40:50] = True
    objects = [Replace(mask=drawn), Replace(box=(2, 30, 20, 50.5))]
    placed = Placement.from_objects(scene.image, PROMPT, objects, margin=0.3)
    boxed = np.zeros_like(drawn)
    boxed[30:51, 2:20] = True
    assert (area(placed) == drawn | boxed).all()
    assert [np.array_equal(mask, wanted) for mask, wanted in zip(placed.layout.masks or (), (drawn, boxed))] == [
        True
    ] * 2


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_an_added_object_is_pasted_into_the_layout_alone(scene: Arrangement, margin: float) -> None:
    image = scene.image
    placed = Placement.from_objects(
        image, PROMPT, [Add(block(), box=(20, 2, 36, 18))], layout_prompt=f"a ball, {PROMPT}", margin=margin
    )
    pasted = np.asarray(placed.layout.image)
    (mask,) = placed.layout.masks or ()
    assert (pasted[2:18, 20:36] == (200, 0, 0)).all() and np.asarray(mask).sum() == 16 * 16
    assert (pasted[~np.asarray(mask)] == np.asarray(image)[~np.asarray(mask)]).all()
    assert placed.placement.image.tobytes() == image.tobytes()
    assert (placed.placement.prompt, placed.layout.prompt) == (PROMPT, f"a ball, {PROMPT}")
    rows, columns = np.nonzero(area(placed))
    reach = int(margin * 64)
    assert (columns.min(), columns.max()) == (20 - reach, 35 + reach)
    assert (rows.min(), rows.max()) == (max(0, 2 - reach), 17 + reach)


def test_a_cutout_stands_where_it_is_put(scene: Arrangement) -> None:
    def bounds(one: Add) -> tuple[int, ...]:
        placed = Placement.from_objects(scene.image, PROMPT, [one], layout_prompt=PROMPT)
        rows, columns = np.nonzero(np.asarray((placed.layout.masks or ())[0]))
        return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1

    assert bounds(Add(block(8, 4), point=(20, 30), size=16)) == (12, 26, 28, 34)
    assert bounds(Add(block(8, 4), point=(20, 30))) == (16, 28, 24, 32)
    assert bounds(Add(block(8, 4, rotation=90), point=(20, 30), size=16)) == (16, 22, 24, 38)
    assert bounds(Add(block(8, 4, position=(40, 10), scenery=True))) == (36, 8, 44, 12)


def test_replaced_and_added_in_the_concepts_order(scene: Arrangement, judge: JudgeGrounder) -> None:
    """The cut-out covers a part of the robot: that part is the cut-out's own."""
    (robot,) = judge.find(scene.image, ["a robot"])[0]
    left, top = robot.box[:2]
    objects = [Add(block(), point=(left + 2, top + 2), size=10), Replace(words="a robot"), Replace(words="a dog")]
    placed = Placement.from_objects(scene.image, PROMPT, objects, judge, layout_prompt=PROMPT)
    added, robots, dogs = (np.asarray(mask) for mask in placed.layout.masks or ())
    assert (robot.mask & added).any() and not (robots & added).any() and not (dogs & added).any()
    assert np.array_equal(robots, robot.mask & ~added)
    assert (area(placed) >= added | robots | dogs).all()


@pytest.mark.parametrize("how", ["inversion", "noise"])
def test_pixels_outside_are_the_originals(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], how: Any
) -> None:
    image = tiny_image("init").convert("RGB").resize((128, 128))
    objects = [Replace(box=(8, 8, 50, 60)), Add(block(), box=(70, 70, 110, 110))]
    placement, layout = Placement.from_objects(
        image, "A street.", objects, layout_prompt="A street with a cat.", background=how
    )
    call = {**tiny_call, "layout": layout, "num_inference_steps": 5, "output_type": "pil"}
    call["inversion"] = Inversion(steps=5, cache=False)
    made = np.asarray(tiny_pipe(**call, placement=placement, generator=torch.Generator().manual_seed(0)).images[0])
    changes = (made != np.asarray(image)).any(-1)
    inside = np.asarray(placement.mask)
    assert not changes[~inside].any()
    assert changes[20:40, 20:40].mean() > 0.9 and changes[80:100, 80:100].mean() > 0.9  # some may be equal by chance


def test_an_image_in_which_objects_are_replaced_is_inverted_once(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], tiny_concepts: dict[str, Any]
) -> None:
    def inversions(*objects: Replace | Add) -> int:
        placement, layout = Placement.from_objects(tiny_image("init"), "A street.", objects, layout_prompt="A street.")
        finished: list[int] = []
        call = {**tiny_call, "concepts": [tiny_concepts["chow_dog"]], "layout": layout, "num_inference_steps": 2}
        call["inversion"] = Inversion(steps=2, cache=False)
        tiny_pipe(**call, placement=placement, callback_on_inversion=lambda done, all_: finished.append(done == all_))
        return sum(finished)

    assert inversions(Replace(box=(8, 8, 50, 60))) == 1
    assert inversions(Add(block(), box=(8, 8, 50, 60))) == 2


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ([], "there is nothing to place"),
        ([Replace(words="a mug")], "'a mug' is not found .*found: nothing"),
        ([Replace(words="a dog"), Replace(words="a dog")], "'a dog' is found once .* wanted 2 times"),
        ([Replace(point=(70, 5))], r"the point \(70, 5\) lies outside of the image of 64x64 pixels"),
        ([Replace(point=(1, 1))], r"no object was found under the point \(1, 1\); move it"),
        ([Replace(box=(30, 5, 20, 9))], r"box 1 \(30, 5, 20, 9\) is empty"),
        ([Replace(box=(30, 5, 80, 9))], r"reaches out of the layout image of 64x64"),
        ([Replace(mask=Image.new("L", (32, 64), "white"))], "mask 1 has 32x64 pixels, but the image 64x64"),
        ([Replace(mask=np.zeros((64, 64)))], "mask 1 is empty; draw the area that may change in white"),
        ([Replace(mask=WHITE), Replace(words="a dog")], "objects 1 and 2 share 100% of the smaller one"),
        ([Replace(words="a dog"), Add(block(), box=(0, 0, 64, 64))], "objects 1 and 2 share 100%"),
        ([Add(block(), point=(64, 5))], r"the point \(64, 5\) lies outside of the image of 64x64"),
        ([Add(block(), box=(-5, 5, 20, 30))], "reaches out of the layout image"),
        ([Add(block(position=(90, 90)))], "cut-out 1 of 1 lies outside of the collage of 64x64"),
    ],
)
def test_what_cannot_be_placed(
    scene: Arrangement, judge: JudgeGrounder, objects: list[Replace | Add], said: str
) -> None:
    with pytest.raises(ConductorError, match=said):
        Placement.from_objects(scene.image, PROMPT, objects, judge, layout_prompt=PROMPT)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Replace(), "either mask= or words= or point= or box=, exactly one of the four"),
        (lambda: Replace(words="a dog", box=(1, 2, 3, 4)), "exactly one of the four"),
        (lambda: Add(block(), box=(1, 2, 3, 4), point=(1, 2)), "either in a box= or at a point=, but both"),
        (lambda: Add(block(), size=3), "expected more than 0 and a point, but it is 3 at None"),
        (lambda: Add(block(), point=(1, 2), size=0), "expected more than 0"),
        (lambda: Placement.from_objects(WHITE, "", [Replace(words="a dog")]), "give grounder=JudgeGrounder"),
        (
            lambda: Placement.from_objects(WHITE, "", [Add(block())]),
            "give layout_prompt=, what the image shows with it",
        ),
        (lambda: Placement.from_objects(WHITE, "", [Replace(mask=WHITE)], margin=6), "0 to 1, but it is 6"),
        (
            lambda: Placement.from_objects(WHITE, "", [Replace(mask=WHITE)], background="none"),
            "must be 'inversion' or 'noise'",
        ),
    ],
)
def test_what_cannot_be_meant(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConductorError, match=said):
        make()


def test_fewer_objects_than_concepts(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], scene: Arrangement
) -> None:
    placement, layout = Placement.from_objects(scene.image, PROMPT, [Replace(box=(1, 1, 30, 30))])
    with pytest.raises(ConductorError, match="the layout has 1 masks for 2 concepts"):
        tiny_pipe(**{**tiny_call, "layout": layout}, placement=placement)
    assert replace(placement, background="noise").mask is placement.mask


def test_paths_and_arrays_are_opened(tmp_path: Path) -> None:
    Image.new("RGB", (96, 64), (1, 2, 3)).save(tmp_path / "park.png")
    Image.new("L", (96, 64), 255).save(tmp_path / "mask.png")
    placement = Placement(str(tmp_path / "park.png"), tmp_path / "mask.png")
    assert placement.image.getpixel((0, 0)) == (1, 2, 3)
    assert np.asarray(placement.mask).min() == 255
    placed = Placement.from_objects(np.zeros((64, 64, 3), np.uint8), PROMPT, [Replace(mask=np.ones((64, 64), bool))])
    assert placed.layout.image.size == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"image": None}, "the placement's image must be a PIL image, .* but it is of type NoneType"),
        ({"mask": np.full((64, 96), 200.0)}, "the placement's mask holds float64 numbers from 200 to 200"),
        ({"mask": np.ones((96, 64), bool)}, "the placement's mask has 64x96 pixels, but the image 96x64"),
        ({"prompt": 5}, "the placement's prompt must be text .* but it is 5"),
        ({"background": "grey"}, "the placement's background must be 'inversion' or 'noise', not 'grey'"),
        ({"fit": None}, "the placement's fit must be 'crop' or 'pad', not None"),
    ],
)
def test_what_is_no_placement(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence):
        Placement(**{"image": Image.new("RGB", (96, 64)), "mask": np.ones((64, 96), bool), **arguments})


def test_a_phones_mask_may_be_drawn_on_its_stored_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 64)).save(tmp_path / "phone.jpg", exif=exif)
    mask = np.zeros((64, 96), bool)
    mask[:20, :30] = True
    placement = Placement(tmp_path / "phone.jpg", mask)
    assert placement.image.size == (64, 96)
    assert np.array_equal(np.asarray(placement.mask) > 0, np.rot90(mask, -1))
    layout = Placement.from_objects(placement.image, PROMPT, [Replace(mask=mask)]).layout
    assert np.array_equal((layout.exact_masks() or ())[0], np.rot90(mask, -1))


def test_a_placement_is_cropped_or_padded_with_its_layout(caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((64, 96), bool)
    mask[10:30, 20:40] = True
    placement, layout = Placement.from_objects(Image.new("RGB", (96, 64)), PROMPT, [Replace(mask=mask)], fit="pad")
    assert (placement.fit, layout.fit) == ("pad", "pad")
    padded = placement.fitted((512, 512))
    assert padded.image.size == layout.fitted((512, 512)).image.size == (96, 96)
    assert np.array_equal(np.asarray(padded.mask) > 0, np.pad(mask, ((16, 16), (0, 0))))
    assert padded.fitted((512, 512)) is padded
    cropped = replace(placement, fit="crop").fitted((512, 512))
    assert np.array_equal(np.asarray(cropped.mask) > 0, mask[:, 16:80])
    assert "the placement's image is cropped from 96x64 pixels to its middle 64x64" in caplog.messages[-1]
