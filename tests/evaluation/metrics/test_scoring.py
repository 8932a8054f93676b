"""Scoring: renderings of the sticker world by the judge, tiny random models of the real kinds, the cache, plug-ins."""

from __future__ import annotations

import json
import logging
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation import registry
from concept_conductor.evaluation.metrics.clip_t import clip_t
from concept_conductor.evaluation.metrics.instruments import Instruments
from concept_conductor.evaluation.metrics.items import ConceptReference, Item
from concept_conductor.evaluation.metrics.registry import METRICS, Metric, default_metrics, judged, register_metric
from concept_conductor.evaluation.metrics.scoring import check_items, score_images
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.io.pretrained import Checkpoint
from concept_conductor.mini.judge import Finding
from tests.evaluation.conftest import drawn

NAMES = ("dog-noto", "dog-emojione", "mug-noto")


@pytest.fixture(scope="module")
def subjects(world, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ConceptReference]:
    """Three concepts with two references each."""
    folder, made = tmp_path_factory.mktemp("references"), {}
    for name in NAMES:
        files = []
        for seed in (10, 11):
            files.append(folder / f"{name}-{seed}.png")
            drawn(world, name.replace("-", "/"), backdrop=seed % 4, seed=seed).save(files[-1])
        made[name] = ConceptReference(name, f"a {name.split('-')[0]}", tuple(files))
    return made


@pytest.fixture
def item(world, subjects, tmp_path):
    """Makes an item: designs that are drawn, concepts that are asked for."""

    def make(shown: list[str], asked: list[str], prompt: str = "an image") -> Item:
        file = tmp_path / f"{'+'.join(shown).replace('/', '-')}.png"
        drawn(world, *shown, seed=3).save(file)
        return Item(file, prompt, tuple(subjects[name] for name in asked))

    return make


@pytest.fixture(scope="module")
def mini() -> Instruments:
    return Instruments.for_model("mini", "cpu")


def test_mini_tells_right_leaked_and_missing_concepts(item, mini) -> None:
    dogs = ["dog-noto", "dog-emojione"]
    items = [
        item(["dog/noto", "dog/emojione"], dogs),
        item(["dog/noto", "dog/noto"], dogs),
        item(["dog/noto"], dogs),
        item(["dog/emojione", "dog/noto", "mug/noto"], dogs),
        item(["mug/noto", "mug/noto"], ["dog-noto", "mug-noto"]),
    ]
    right, leaked, missing, more, other = score_images(items, default_metrics(mini), mini, None)
    assert [right[name] for name in ("design", "design_all", "omission", "redundancy", "leakage")] == [1, 1, 0, 0, 0]
    assert right["judge_i"] > 0.9 and right["judge_i_one_to_one"] > 0.9
    assert json.loads(right["judge_i_concepts"]).keys() == set(dogs)
    assert json.loads(leaked["design_concepts"]) == {"dog-noto": "present", "dog-emojione": "leaked"}
    assert leaked["leakage"] == 0.5 and leaked["design_leaked"] == 0.5 and leaked["omission"] == 0
    assert leaked["judge_i"] < right["judge_i"] - 0.1
    assert json.loads(missing["design_concepts"]) == {"dog-noto": "present", "dog-emojione": "omitted"}
    assert missing["omission"] == 1 and json.loads(missing["count_differences"]) == {"dog": -1}
    assert missing["leakage"] == 0 and json.loads(missing["leakage_matrix"])[1] is None
    assert missing["judge_i_one_to_one"] < missing["judge_i"]
    assert (more["design"], more["redundancy"]) == (1, 0)  # nobody asked about mugs
    assert (other["omission"], other["redundancy"], other["design"]) == (1, 1, 0.5)
    assert [right[f"judge_i_{size}"] is None for size in ("small", "medium", "large")].count(False) >= 1


def finding(design: str) -> Finding:
    return Finding(design.split("/")[0], design, np.ones((2, 2), bool), 0.9, (0, 0, 1, 1))


@pytest.mark.parametrize(
    ("shown", "fates"),
    [
        (["dog/noto", "dog/emojione"], ["present", "present"]),
        (["dog/emojione", "dog/emojione"], ["leaked", "present"]),
        (["dog/emojione"], ["omitted", "present"]),
        (["dog/twemoji"], ["leaked", "omitted"]),
        (["cat/noto", "cat/emojione"], ["omitted", "omitted"]),
        ([], ["omitted", "omitted"]),
    ],
)
def test_fates_of_concepts(shown, fates) -> None:
    assert judged([finding(design) for design in shown], ["dog/noto", "dog/emojione"]) == fates


@pytest.fixture(scope="module")
def real(tiny_detector, tiny_segmenter, tiny_clip, tiny_dino) -> Instruments:
    """Tiny random models of the published kinds."""
    folders = {"grounding_dino": tiny_detector, "sam": tiny_segmenter, "clip": tiny_clip, "dino": tiny_dino}
    checkpoints = {name: Checkpoint(str(folder)) for name, folder in folders.items()}
    return Instruments.for_model("some/model", "cpu", checkpoints=checkpoints, local_files_only=True)


def test_the_published_kinds_of_models_run(item, real) -> None:
    made = item(["dog/noto", "mug/noto"], ["dog-noto", "mug-noto"], "a dog on the left.")
    names = [name for name in default_metrics(real) if name != "image_reward"]
    (row,) = score_images([made], names, real, None)
    with Image.open(made.image) as image:
        assert row["clip_t"] == pytest.approx(clip_t(real.clip, [image], ["a dog on the left."])[0], abs=1e-5)
    for name in ("clip_i", "dino"):
        scores = json.loads(row[f"{name}_concepts"])
        assert row[name] == pytest.approx(sum(scores.values()) / 2, abs=1e-5)
        assert -1 <= row[f"{name}_one_to_one"] <= row[name] + 1e-6 <= 1 + 1e-5
    matrix = np.array(json.loads(row["leakage_matrix"]))
    assert matrix.shape == (2, 2) and (np.abs(matrix) <= 1 + 1e-6).all()
    counts = json.loads(row["count_differences"])
    found = real.grounder.find(Image.open(made.image), ["a dog", "a mug"])
    assert counts == {"dog": len(found[0]) - 1, "mug": len(found[1]) - 1}


def test_images_scored_together_have_the_numbers_they_have_alone(item, real, monkeypatch) -> None:
    dogs = ["dog-noto", "dog-emojione"]
    items = [
        item(["dog/noto", "mug/noto"], ["dog-noto", "mug-noto"], "a dog on the left."),
        item(["dog/emojione"], dogs, "a dog and a red dog"),
        item(["mug/noto"], ["mug-noto"], "a mug"),
    ]
    names = [name for name in default_metrics(real) if name != "image_reward"]
    batches = []
    embed = type(real.clip).embed
    monkeypatch.setattr(
        type(real.clip), "embed", lambda self, images: batches.append(len(images)) or embed(self, images)
    )
    together = score_images(items, names, real, None)
    assert max(batches) > 3  # the segments of all images at once
    for one, row in zip(items, together):
        (alone,) = score_images([one], names, real, None)
        assert alone.keys() == row.keys()
        for name, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(alone[name], abs=1e-4), name


def test_numbers_are_kept_until_what_they_depend_on_changes(item, mini, tmp_path, monkeypatch, caplog) -> None:
    found: list[Path] = []
    plain = JudgeGrounder.find
    monkeypatch.setattr(JudgeGrounder, "find", lambda self, *args: found.append(args) or plain(self, *args))
    made, cache = item(["dog/noto", "mug/noto"], ["dog-noto", "mug-noto"]), tmp_path / "kept"
    metrics = ["judge_i", "omission"]
    seen: list[tuple[int, int]] = []
    first = score_images([made, made], metrics, mini, cache, lambda *done: seen.append(done))
    assert first[0] == first[1] and seen == [(1, 2), (2, 2)]
    # four references, the image once for both metrics, and the twin from the cache
    assert len(found) == 5 and len(list(cache.glob("*/*.json"))) == 2

    assert score_images([made], metrics, mini, cache) == first[:1] and len(found) == 5
    (anew,) = score_images([made], ["judge_i"], mini, None)
    assert anew["judge_i"] == pytest.approx(first[0]["judge_i"], abs=1e-5) and len(found) == 10

    for file in cache.glob("*/*.json"):
        file.write_text("{")
    with caplog.at_level(logging.WARNING):
        (anew,) = score_images([made], metrics, mini, cache)
    numbers = {name: value for name, value in first[0].items() if isinstance(value, float)}
    assert {name: anew[name] for name in numbers} == pytest.approx(numbers, abs=1e-5) and anew.keys() == first[0].keys()
    assert len(found) == 15 and caplog.text.count("measured anew") == 2

    for other in (
        Item(made.image, "another prompt", made.concepts),
        Item(made.image, made.prompt, made.concepts[:1]),
    ):
        score_images([other], ["omission"], mini, cache)
    with Image.open(made.image) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(made.image)
    score_images([made], ["omission"], mini, cache)
    monkeypatch.setitem(METRICS, "omission", Metric(**{**vars(METRICS["omission"]), "version": 99}))
    score_images([made], ["omission"], mini, cache)
    assert len(found) == 19 and len(list(cache.glob("*/*.json"))) == 6


def test_kept_numbers_need_no_models(item, real, tmp_path, monkeypatch, tiny_clip) -> None:
    made = item(["dog/noto"], ["dog-noto"], "a dog")
    rows = score_images([made], ["clip_t"], real, tmp_path / "kept")
    again = Instruments.for_model("some/model", "cpu", checkpoints={"clip": Checkpoint(str(tiny_clip))})
    assert score_images([made], ["clip_t"], again, tmp_path / "kept") == rows
    assert "model" not in vars(again.clip)


def test_a_reference_without_its_class_is_taken_whole_and_said(item, mini, tmp_path, caplog) -> None:
    made = item(["dog/noto"], ["dog-noto"])
    Image.new("RGB", (64, 64), "white").save(tmp_path / "empty.png")
    lost = Item(made.image, "", (ConceptReference("dog-noto", "a dog", (tmp_path / "empty.png",)),))
    with caplog.at_level(logging.WARNING):
        (row,) = score_images([lost], ["judge_i"], mini, None)
    assert row["judge_i"] == 0 and "no 'a dog' is found in the reference" in caplog.text


def test_plug_ins_add_metrics(item, mini, monkeypatch, tmp_path) -> None:
    width = Metric("width", "of the image", 1, (), lambda o: {"width": float(o.image.width)}, needs_concepts=False)
    entry = EntryPoint("width", "somewhere:WIDTH", METRICS.group)
    monkeypatch.setattr(EntryPoint, "load", lambda self: width)
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    made = item(["dog/noto"], [])
    try:
        (row,) = score_images([made], ["width"], mini, tmp_path / "kept")
        assert row == {"image": str(made.image), "width": 64.0}
        register_metric(width)
        with pytest.raises(ConductorError, match="'width' is known already"):
            register_metric(Metric("width", "another", 1, (), width.measure))
    finally:
        METRICS.pop("width", None)
    monkeypatch.setattr(EntryPoint, "load", lambda self: "no metric")
    with pytest.raises(ConductorError, match=r"entry point 'width' .* gives a str; expected a Metric"):
        score_images([made], ["width"], mini, None)


def test_bad_input(item, mini, real, tmp_path) -> None:
    made = item(["dog/noto"], ["dog-noto"])
    with pytest.raises(ConductorError, match=r"no metric 'clip-i'; expected some of .*clip_i"):
        score_images([made], ["clip-i"], mini, None)
    with pytest.raises(ConductorError, match="no metric was named"):
        score_images([made], [], mini, None)
    with pytest.raises(ConductorError, match="there is no image"):
        score_images([Item(tmp_path / "gone.png", "", made.concepts)], ["omission"], mini, None)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(ConductorError, match="is no image"):
        score_images([Item(tmp_path / "bad.png", "", made.concepts)], ["omission"], mini, None)
    with pytest.raises(ConductorError, match="'omission' needs them"):
        score_images([Item(made.image, "", ())], ["omission"], mini, None)
    with pytest.raises(ConductorError, match="needs the embedded model's judge"):
        score_images([made], ["design"], real, None)
    stranger = ConceptReference("my_dog", "a dog", made.concepts[0].references)
    with pytest.raises(ConductorError, match=r"'design' knows nothing of the concept 'my_dog'; name it CLASS-STYLE"):
        score_images([Item(made.image, "", (stranger,))], ["design"], mini, None)
    giraffe = ConceptReference("giraffe", "a giraffe", made.concepts[0].references)
    with pytest.raises(ConductorError, match="'a giraffe' name none of the classes"):
        score_images([Item(made.image, "", (giraffe,))], ["omission"], mini, None)
    with pytest.raises(ConductorError, match="'a giraffe' name none of the classes"):
        # before the image that could be measured
        score_images([made, Item(made.image, "", (giraffe,))], ["leakage"], Instruments.for_model("mini", "cpu"), None)
    away = Instruments.for_model("some/model", "cpu", checkpoints={"dino": Checkpoint(str(tmp_path))})
    with pytest.raises(ConductorError, match=f"'{tmp_path}' holds no model to measure with"):
        away.check("dino")
    mini.check("grounder")  # which needs nothing
    with pytest.raises(ConductorError, match="the placeholder <x> in the prompt '<x>' belongs to none of the concepts"):
        check_items([Item(made.image, "<x>", made.concepts)], [METRICS["clip_t"]], real)
    with pytest.raises(ConductorError, match="no measuring model 'clap' to choose"):
        Instruments.for_model("mini", checkpoints={"clap": Checkpoint("x")})
