"""Where concepts belong and what stands there: drawn segments, and renderings whose objects changed places."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics.arrangement import designs_in_place
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import ConceptReference, Item
from concept_conductor.evaluation.metrics.places import Region, place_mask, standing
from concept_conductor.evaluation.metrics.scoring import score_images
from concept_conductor.mini.judge import Finding
from tests.evaluation.conftest import drawn

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def box(x0: int, y0: int, x1: int, y1: int, size: int = 20) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_places_are_masks_of_any_image(tmp_path: Path) -> None:
    np.testing.assert_array_equal(place_mask((0.25, 0.5, 0.75, 1.0), (8, 4))[2:, 2:6], True)
    assert place_mask((0.25, 0.5, 0.75, 1.0), (8, 4)).sum() == 8
    Image.fromarray(box(0, 0, 10, 20).astype(np.uint8) * 255).save(tmp_path / "left.png")
    np.testing.assert_array_equal(place_mask(tmp_path / "left.png", (40, 10)), place_mask(LEFT, (40, 10)))
    with pytest.raises(ConductorError, match="is empty in an image of 4x4 pixels; draw it larger"):
        place_mask((0.5, 0.5, 0.6, 0.6), (4, 4))


@pytest.mark.parametrize(
    ("objects", "found"),
    [
        ([box(2, 5, 8, 15), box(12, 5, 18, 15)], [0, 1]),
        ([box(12, 5, 18, 15), box(2, 5, 8, 15)], [1, 0]),
        ([box(2, 5, 8, 15)], [0, None]),
        ([box(7, 5, 14, 15), box(0, 5, 6, 15)], [1, 0]),  # the first stands mostly right
        ([box(0, 0, 20, 20)], [0, None]),  # over both: it can fill one place only
        ([box(0, 0, 4, 4), box(0, 5, 10, 20)], [1, None]),  # the better of two
        ([], [None, None]),
    ],
)
def test_what_stands_in_each_place(objects: list[np.ndarray], found: list[int | None]) -> None:
    assert standing([place_mask(LEFT, (20, 20)), place_mask(RIGHT, (20, 20))], objects) == found


def test_designs_in_their_places() -> None:
    def finding(design: str, mask: np.ndarray) -> Finding:
        return Finding(design.split("/")[0], design, mask, 0.9, (0, 0, 1, 1))

    left, right = box(2, 5, 8, 15), box(12, 5, 18, 15)
    asked = ["dog/noto", "dog/emojione"]
    right_way = [finding("dog/noto", left), finding("dog/emojione", right)]
    swapped = [finding("dog/emojione", left), finding("dog/noto", right)]
    assert designs_in_place([LEFT, RIGHT], right_way, asked) == [True, True]
    assert designs_in_place([LEFT, RIGHT], swapped, asked) == [False, False]
    assert designs_in_place([LEFT, RIGHT], right_way[1:], asked) == [False, True]
    assert designs_in_place([LEFT, RIGHT], [], asked) == [False, False]


def test_concepts_that_changed_places_are_told_though_nothing_leaked(world, tmp_path: Path) -> None:
    subjects = []
    for name in ("dog-noto", "dog-emojione"):
        file = tmp_path / f"{name}.png"
        drawn(world, name.replace("-", "/"), seed=10).save(file)
        subjects.append(ConceptReference(name, "a dog", (file,)))
    places: tuple[Region, ...] = (LEFT, RIGHT)
    items = []
    for number, designs in enumerate((["dog/noto", "dog/emojione"], ["dog/emojione", "dog/noto"], ["dog/noto"] * 2)):
        drawn(world, *designs, seed=3).save(tmp_path / f"{number}.png")
        items.append(Item(tmp_path / f"{number}.png", "two dogs", tuple(subjects), places))
    metrics = ["design", "leakage", "arrangement"]
    instruments = Instruments.for_model("mini", "cpu")
    right, swapped, leaked = score_images(items, metrics, instruments, tmp_path / "kept")
    assert [right[name] for name in ("design", "leakage", "arrangement", "design_in_place")] == [1, 0, 1, 1]
    assert [swapped[name] for name in ("design", "leakage", "arrangement", "design_in_place")] == [1, 0, 0, 0]
    assert swapped["arrangement_others"] == 1
    assert json.loads(str(leaked["arrangement_concepts"])) == {"dog-noto": "own", "dog-emojione": "another's"}
    # a place that moved is measured anew, and what does not depend on places is not
    moved = Item(items[1].image, "two dogs", tuple(subjects), (RIGHT, LEFT))
    kept = len(list((tmp_path / "kept").glob("*/*.json")))
    (row,) = score_images([moved], metrics, instruments, tmp_path / "kept")
    assert (row["arrangement"], row["design_in_place"]) == (1, 1)
    assert len(list((tmp_path / "kept").glob("*/*.json"))) == kept + 2


def test_unknown_places_are_not_measured_and_too_few_are_an_error(world, tmp_path: Path) -> None:
    drawn(world, "dog/noto").save(tmp_path / "dog.png")
    subject = ConceptReference("dog-noto", "a dog", (tmp_path / "dog.png",))
    (row,) = score_images(
        [Item(tmp_path / "dog.png", "", (subject,))], ["arrangement"], Instruments.for_model("mini", "cpu"), None
    )
    assert row["arrangement"] is None
    with pytest.raises(ConductorError, match="2 places are given for the 1 concepts"):
        Item(tmp_path / "dog.png", "", (subject,), (LEFT, RIGHT))
