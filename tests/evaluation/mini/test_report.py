"""The report: layouts, what counts as right, and merging two concepts into one model."""

import numpy as np
import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.mini.report import assess, contact_sheet, load_concepts, share
from concept_conductor.mini.arrangements import PAIRS, arrange, design_of
from concept_conductor.mini.judge import Finding
from concept_conductor.mini.presets import CPU
from tests.compare import assert_same_image


def finding(design: str, box: tuple[float, float, float, float]) -> Finding:
    return Finding(design.split("/")[0], design, np.zeros((64, 64), dtype=bool), 0.9, box)


@pytest.fixture(scope="module")
def arrangement():
    return arrange(CPU.world(), ["dog", "cat"], "beach", seed=0)


def test_a_layout_has_two_masks_and_an_exact_prompt(arrangement):
    assert arrangement.prompt == "a dog and a cat on the beach"
    assert len(arrangement.masks) == 2
    left, right = arrangement.boxes
    assert left[0] < right[0]


def test_a_seed_gives_the_same_layout(arrangement):
    again = arrange(CPU.world(), ["dog", "cat"], "beach", seed=0)
    assert_same_image(again.image, arrangement.image)


def test_right_designs_in_their_places(arrangement):
    left, right = arrangement.boxes
    found = [finding("dog/noto", left), finding("cat/noto", right)]
    outcome = assess(found, ["dog/noto", "cat/noto"], arrangement)
    assert outcome.present == outcome.placed == [True, True]
    assert outcome.omitted == [False, False]
    assert outcome.overlap == [0.0, 0.0]  # these findings have empty masks


def test_overlap_is_with_the_layouts_masks(arrangement):
    left, right = arrangement.boxes
    masks = [np.asarray(mask) for mask in arrangement.masks]
    found = [
        Finding("dog", "dog/noto", masks[0], 0.9, left),
        Finding("cat", "cat/noto", masks[0] | masks[1], 0.9, right),
    ]
    outcome = assess(found, ["dog/noto", "cat/noto"], arrangement)
    assert outcome.overlap[0] == 1.0
    assert 0 < outcome.overlap[1] < 1


def test_wrong_places_and_missing_objects_show(arrangement):
    left, right = arrangement.boxes
    swapped = [finding("cat/noto", left), finding("dog/noto", right)]
    outcome = assess(swapped, ["dog/noto", "cat/noto"], arrangement)
    assert outcome.present == [True, True]
    assert outcome.placed == [False, False]
    assert outcome.omitted == [True, True]
    assert assess([], ["dog/noto", "cat/noto"], arrangement).present == [False, False]


def test_pairs_are_of_held_out_designs():
    assert len(PAIRS) >= 10
    for pair in PAIRS:
        assert all(design_of(name).split("/")[1] in ("noto", "emojione") for name in pair)


def test_share():
    assert share([True, True, False, True]) == "75% (3/4)"


def test_contact_sheet_holds_all_images():
    sheet = contact_sheet([("dog", Image.new("RGB", (64, 64)))] * 9, columns=4)
    assert sheet.size == (4 * 128, 3 * (128 + 14))


@pytest.mark.parametrize(("name", "said"), [(None, "holds no concepts"), ("my_dog", "is named after no design")])
def test_concepts_that_are_not_of_the_world(tmp_path, name, said):
    if name is not None:
        (tmp_path / f"{name}.safetensors").touch()
    with pytest.raises(ConductorError, match=said):
        load_concepts(tmp_path)
