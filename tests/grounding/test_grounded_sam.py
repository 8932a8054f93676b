"""Grounding: the judge on renderings, Grounding DINO and SAM on random weights, suppression on known boxes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.grounding.choose import default_grounder
from concept_conductor.grounding.grounded_sam import GroundedSam, caption, suppress
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.io.pretrained import Checkpoint, best_device
from concept_conductor.mini import MODEL_FOLDER
from tests.compare import mask_iou
from tests.evaluation.conftest import drawn


@pytest.fixture(scope="module")
def grounder(tiny_detector: Path, tiny_segmenter: Path) -> GroundedSam:
    """On random weights, with thresholds that let boxes through."""
    return GroundedSam("cpu", Checkpoint(str(tiny_detector)), Checkpoint(str(tiny_segmenter)), local_files_only=True)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_judge_finds_what_words_name(world) -> None:
    image = drawn(world, "dog/noto", "mug/emojione").resize((160, 96))
    mugs, dogs, cats = JudgeGrounder().find(image, ["the mug on the right", "two dogs", "A cat."])
    assert (len(mugs), len(dogs), len(cats)) == (1, 1, 0)
    assert mugs[0].words == "the mug on the right"
    for segment in (*mugs, *dogs):
        assert segment.mask.shape == (96, 160) and segment.mask.dtype == bool
        assert 0.5 <= segment.score <= 1
        rows, columns = np.nonzero(segment.mask)
        x0, y0, x1, y1 = segment.box
        assert x0 - 3 <= columns.min() and columns.max() < x1 + 3 and y0 - 3 <= rows.min() and rows.max() < y1 + 3
    assert dogs[0].box[2] < mugs[0].box[2]


def test_judge_tells_two_of_one_class_apart_best_first(world) -> None:
    (dogs,) = JudgeGrounder().find(drawn(world, "dog/noto", "dog/emojione"), ["a dog"])
    assert len(dogs) == 2
    assert dogs[0].score >= dogs[1].score
    assert not (dogs[0].mask & dogs[1].mask).any()


@pytest.mark.parametrize("words", ["a giraffe", "", "a dog and a cat"])
def test_judge_says_which_classes_it_knows(words) -> None:
    with pytest.raises(ConductorError, match=r"exactly one of .*dog.*cat"):
        JudgeGrounder().find(Image.new("RGB", (64, 64)), [words])


def test_grounded_sam_finds_segments_of_the_image_size(grounder, image) -> None:
    found = grounder.find(image, ["A dog", "a red mug", "a dog."])
    assert [len(segments) > 0 for segments in found] == [True] * 3
    for segments in found:
        scores = [segment.score for segment in segments]
        assert scores == sorted(scores, reverse=True) and min(scores) > grounder.box_threshold
        for segment in segments:
            x0, y0, x1, y1 = segment.box
            assert 0 <= x0 < x1 <= 80 and 0 <= y0 < y1 <= 60
            assert segment.mask.shape == (60, 80) and segment.mask.dtype == bool and segment.mask.any()
    assert [segment.words for segment in found[2]] == ["a dog."] * len(found[2])
    for first, again in zip(found[0], found[2]):
        assert first.score == pytest.approx(again.score, abs=1e-5)
        assert (first.mask != again.mask).mean() < 1e-3


def test_judge_finds_what_is_under_a_point(world) -> None:
    image = drawn(world, "dog/noto", "mug/emojione").resize((160, 96))
    judge = JudgeGrounder()
    ((mug, *_),) = judge.find(image, ["a mug"])
    x, y = (mug.box[0] + mug.box[2]) / 2, (mug.box[1] + mug.box[3]) / 2
    under, nothing = judge.under(image, [(x, y), (1.0, 1.0)])
    assert mask_iou(under, mug.mask) > 0.98
    assert nothing.shape == (96, 160) and not nothing.any()


def test_grounded_sam_finds_what_is_under_points(grounder, image) -> None:
    points = [(10.0, 20.0), (70.5, 50.0)]
    masks = grounder.under(image, points)
    assert [mask.shape for mask in masks] == [(60, 80)] * 2 and all(mask.dtype == bool for mask in masks)
    for mask, point in zip(masks, points):  # each by itself as among others
        assert (grounder.under(image, [point])[0] != mask).mean() < 1e-3
    assert grounder.under(image, []) == []


def test_grounded_sam_finds_the_same_for_a_word_alone_or_among_others(grounder, image) -> None:
    words = ["a dog", "a cat", "red mug", "the left dog", "a mug on the left", "cat"]
    for together, word in zip(grounder.find(image, words), words):
        (alone,) = grounder.find(image, [word])
        assert len(alone) == len(together)
        for one, other in zip(alone, together):
            assert one.box == pytest.approx(other.box, abs=1e-3)
            assert one.score == pytest.approx(other.score, abs=1e-5)
            assert (one.mask != other.mask).mean() < 1e-3


def test_grounded_sam_finds_the_same_in_an_image_alone_or_among_others(grounder, image) -> None:
    images = [image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.resize((60, 80)), image]
    words = [["a dog", "a cat"], ["red mug"], ["a dog"], []]
    forwards = []
    model = grounder._detector[1]
    hook = model.register_forward_hook(lambda *call: forwards.append(len(call[2].logits)))
    try:
        together = grounder.find_all(images, words)
    finally:
        hook.remove()
    assert forwards == [3, 1]  # images of one size at once
    for each, own, found in zip(images, words, together):
        for one, other in zip(grounder.find(each, own), found, strict=True):
            assert len(one) == len(other) > 0
            for alone, among in zip(one, other):
                assert alone.words == among.words and alone.mask.shape == each.size[::-1]
                assert alone.box == pytest.approx(among.box, abs=1e-3)
                assert alone.score == pytest.approx(among.score, abs=1e-5)
                assert (alone.mask != among.mask).mean() < 1e-3


def test_grounded_sam_is_what_transformers_pipeline_of_processors_finds(grounder, image, tiny_detector) -> None:
    from transformers import AutoModelForZeroShotObjectDetection, AutoTokenizer, GroundingDinoProcessor

    from concept_conductor.io.pretrained import pillow_processor

    images = pillow_processor("GroundingDinoImageProcessor").from_pretrained(tiny_detector)
    processor = GroundingDinoProcessor(images, AutoTokenizer.from_pretrained(tiny_detector))
    model = AutoModelForZeroShotObjectDetection.from_pretrained(tiny_detector).eval()
    inputs = processor(images=image, text="a dog.", return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (expected,) = processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], 0.3, 0.25, target_sizes=[(60, 80)]
    )
    (found,) = grounder.find(image, ["a dog"])
    best = expected["boxes"][expected["scores"].argmax()].clamp(min=0).tolist()
    assert found[0].box == pytest.approx([min(best[0], 80), min(best[1], 60), min(best[2], 80), min(best[3], 60)])
    assert found[0].score == pytest.approx(expected["scores"].max().item())


def test_thresholds_let_less_through(tiny_detector, tiny_segmenter, image) -> None:
    models = Checkpoint(str(tiny_detector)), Checkpoint(str(tiny_segmenter))
    counts = [
        len(GroundedSam("cpu", *models, box_threshold=least, overlap=overlap).find(image, ["a dog"])[0])
        for least, overlap in ((0.3, 1.0), (0.3, 0.0), (1.0, 1.0))
    ]
    assert counts[0] > counts[1] >= 1 and counts[2] == 0


def test_models_are_loaded_when_used_and_once(grounder, tiny_detector, tiny_segmenter, image) -> None:
    absent = GroundedSam("cpu", Checkpoint("nobody/nothing-of-the-kind"), local_files_only=True)
    with pytest.raises(ConductorError, match=r"'nobody/nothing-of-the-kind' could not be loaded .* give a folder"):
        absent.find(image, ["a dog"])
    assert absent.find(image, []) == []
    assert grounder._detector is grounder._detector


def test_another_architecture_is_named(tiny_detector, tiny_segmenter, image) -> None:
    crossed = GroundedSam("cpu", Checkpoint(str(tiny_segmenter)), Checkpoint(str(tiny_detector)))
    with pytest.raises(ConductorError, match=r"kind 'sam'; expected 'grounding-dino'"):
        crossed.find(image, ["a dog"])


@pytest.mark.parametrize("damage", ["weights", "config"])
def test_damaged_checkpoint(tiny_detector, tiny_segmenter, image, tmp_path, damage) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_detector, folder)
    if damage == "weights":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    else:
        (folder / "config.json").write_text("{")
    with pytest.raises(ConductorError, match=r"damaged' could not be loaded"):
        GroundedSam("cpu", Checkpoint(str(folder)), Checkpoint(str(tiny_segmenter))).find(image, ["a dog"])


def test_captions() -> None:
    assert caption("  A Dog ") == "a dog."
    assert caption("a dog.") == "a dog."
    with pytest.raises(ConductorError, match="no word"):
        caption(" . ")


def test_suppression_keeps_the_surest_of_overlapping_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 5]])
    scores = torch.tensor([0.5, 0.9, 0.4, 0.6])
    assert suppress(boxes, scores, 0.5) == [1, 3, 2]  # box 0 shares 9/11 with box 1, box 3 shares 45/105
    assert suppress(boxes, scores, 0.4) == [1, 2]
    assert suppress(boxes, scores, 1.0) == [1, 3, 0, 2]
    assert suppress(torch.zeros(0, 4), torch.zeros(0), 0.5) == []


def test_default_grounder_by_model() -> None:
    assert isinstance(default_grounder("mini"), JudgeGrounder)
    assert isinstance(default_grounder(MODEL_FOLDER), JudgeGrounder)
    assert isinstance(default_grounder("stable-diffusion-v1-5/stable-diffusion-v1-5", "cpu"), GroundedSam)


def test_identity_tells_models_and_thresholds_apart(tiny_detector, tiny_segmenter, grounder, tmp_path) -> None:
    models = Checkpoint(str(tiny_detector)), Checkpoint(str(tiny_segmenter))
    copied = tmp_path / "elsewhere"
    shutil.copytree(tiny_detector, copied)
    assert GroundedSam("cpu", Checkpoint(str(copied)), models[1]).identity() == grounder.identity()
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"num_queries": 11}))
    others = {
        GroundedSam("cpu", Checkpoint(str(copied)), models[1]).identity(),
        GroundedSam("cpu", *models, box_threshold=0.2).identity(),
        GroundedSam("cpu").identity(),
        JudgeGrounder().identity(),
        grounder.identity(),
    }
    assert len(others) == 5
    assert JudgeGrounder().identity() == JudgeGrounder().identity()


def test_bad_settings() -> None:
    with pytest.raises(ConductorError, match="0 to 1"):
        GroundedSam("cpu", box_threshold=2)
    with pytest.raises(ConductorError, match="no device 'gpu7'"):
        best_device("gpu7")


def test_half_precision_finds_nearly_the_same(grounder, image, monkeypatch) -> None:
    (full,) = grounder.find(image, ["a dog"])
    monkeypatch.setattr("concept_conductor.grounding.grounded_sam.precision", lambda device: torch.float16)
    half = GroundedSam("cpu", grounder.detector, grounder.segmenter)
    (found,) = half.find(image, ["a dog"])
    assert half._detector[1].dtype == half._segmenter[1].dtype == torch.float16
    assert found[0].score == pytest.approx(full[0].score, abs=0.02)
    assert abs(len(found) - len(full)) <= 2


def test_what_is_there_instead_is_the_best_candidate_below_the_threshold(
    tiny_detector, tiny_segmenter, grounder, image
) -> None:
    strict = GroundedSam("cpu", grounder.detector, grounder.segmenter, box_threshold=1.0)
    assert strict.find(image, ["a dog"]) == [[]]
    said = strict.instead(image, "a dog")
    best = re.fullmatch(r"the best candidate scores ([01]\.\d\d), where the threshold is 1: lower it .*", said)
    assert best is not None, said
    found = grounder.find(image, ["a dog"])[0]
    assert not found or abs(float(best[1]) - found[0].score) < 0.01
    assert strict.box_threshold == 1.0  # as it was
