"""The measure of placements: its scenes, what counts as recognised, and, slowly, a few of the images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor import Concept, ConceptConductorPipeline, Layout, Placement
from concept_conductor.evaluation.mini import placements
from concept_conductor.evaluation.mini.placements import Case, adding, place, psnr_outside, recognised, replacing
from concept_conductor.mini.judge import Finding, Judge
from concept_conductor.mini.presets import CPU
from concept_conductor.placement.placement import Placed
from tests.compare import assert_same_image


def case(mask: np.ndarray) -> Case:
    image = Image.new("RGB", (64, 64), (100, 150, 200))
    return Case("dog-noto", "replaced", "a dog", Placed(Placement(image, mask), Layout(image, "a dog", [mask])), 0)


@pytest.fixture
def left() -> np.ndarray:
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:50, 5:25] = True
    return mask


def finding(design: str, box: tuple[float, float, float, float]) -> Finding:
    return Finding(design.split("/")[0], design, np.zeros((64, 64), dtype=bool), 0.9, box)


def test_the_concepts_own_design_in_its_place_is_recognised(left):
    here, there = (0.1, 0.3, 0.4, 0.8), (0.6, 0.3, 0.9, 0.8)
    assert recognised([finding("cat/noto", there), finding("dog/noto", here)], case(left))
    assert not recognised([finding("dog/noto", there), finding("dog/emojione", here)], case(left))
    assert not recognised([], case(left))


def test_psnr_looks_outside_of_the_mask_alone(left):
    placement = case(left).placed.placement
    image = np.array(placement.image)
    image[left] = 0
    assert psnr_outside(Image.fromarray(image), placement) == float("inf")
    image[~left] += 1
    assert psnr_outside(Image.fromarray(image), placement) == pytest.approx(20 * np.log10(255))


@pytest.mark.parametrize("seed", [0, 1])
def test_scenes_are_what_their_prompts_say(seed):
    world, judge = CPU.world(), Judge.load()
    replaced, added = replacing(world, "dog-noto", seed), adding(world, "dog-noto", seed)
    (other,) = (found.class_name for found in judge.find(added.placed.placement.image))
    assert sorted(found.class_name for found in judge.find(replaced.placed.placement.image)) == sorted(["dog", other])
    assert [found.design for found in judge.find(added.placed.layout.image) if found.class_name == "dog"] == [
        "dog/noto"
    ]
    assert added.placed.placement.prompt.startswith(f"a {other} ")
    for one in (replaced, added):
        assert one.prompt == one.placed.layout.prompt
        order = [found.class_name for found in judge.find(one.placed.layout.image)]
        assert one.prompt.startswith(" and ".join(f"a {name}" for name in order))
    again = adding(world, "dog-noto", seed).placed
    assert_same_image(again.layout.image, added.placed.layout.image)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "name", "seed"), [(replacing, "mug-noto", 7), (adding, "cat-emojione", 2)])
def test_concepts_are_recognised_where_they_are_placed(make, name, seed, tmp_path: Path, monkeypatch):
    """Two of the twenty that `conductor mini placements` makes, in a fifth of the steps."""
    monkeypatch.setenv("CONCEPT_CONDUCTOR_CACHE", str(tmp_path))
    monkeypatch.setattr(placements, "STEPS", 10)
    pipe = ConceptConductorPipeline.from_pretrained("mini")
    pipe.set_progress_bar_config(disable=True)
    verdict = place(pipe, Concept.load(f"mini/{name}"), make(CPU.world(), name, seed))
    assert verdict.recognised and verdict.psnr == float("inf")
