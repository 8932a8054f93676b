"""`conductor score` on renderings of the sticker world."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from concept_conductor.io.images import RECIPE_KEY, save_png
from concept_conductor.mini.presets import CPU
from tests.evaluation.conftest import drawn, tiny_clip  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References of two concepts, and two images, one of which carries a recipe."""
    folder, world = tmp_path_factory.mktemp("score"), CPU.world(None)
    for name in ("dog-noto", "mug-noto"):
        save_png(drawn(world, name.replace("-", "/"), seed=5), folder / name / "1.png")
    save_png(drawn(world, "dog/noto", "mug/noto", seed=1), folder / "out" / "both.png", {RECIPE_KEY: '{"prompt": "x"}'})
    save_png(drawn(world, "mug/noto", seed=2), folder / "out" / "mug.png")
    return folder


@pytest.fixture
def words(folder, monkeypatch):
    """The usual arguments, in the folder; numbers are kept there too."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CONCEPT_CONDUCTOR_CACHE", str(folder / "cache"))
    return ["score", "--model", "mini", "--references", "a dog=dog-noto", "--references", "a mug=mug-noto"]


def test_json_has_a_row_for_each_image(conductor, words, folder) -> None:
    outcome = conductor(*words, "out", "--prompt", "A dog and a mug.", "--json")
    assert outcome.status == 0, outcome.err
    both, mug = json.loads(outcome.out)
    assert (both["image"], both["design"], both["omission"]) == ("out/both.png", 1, 0)
    assert (mug["image"], mug["design"], mug["omission"]) == ("out/mug.png", 0.5, 1)
    assert mug["design_concepts"] == {"dog-noto": "omitted", "mug-noto": "present"}
    assert list((folder / "cache" / "scores").glob("*/*.json"))


def test_table_has_means_and_areas(conductor, words) -> None:
    outcome = conductor(*words, "out", "--prompt", "x", "--metrics", "judge_i, omission", "--no-cache")
    assert outcome.status == 0, outcome.err
    assert all(text in outcome.out for text in ("out/both.png", "judge_i_one_to_one", "mean", "0.5000", "medium"))
    assert "design" not in outcome.out


def test_places_tell_who_stands_where(conductor, words) -> None:
    words = [*words, "out/both.png", "--prompt", "x", "--no-cache", "--json"]
    for places, share in ((("0,0,0.5,1", "0.5,0,1,1"), 1), (("0.5,0,1,1", "0,0,0.5,1"), 0)):
        outcome = conductor(*words, "--place", places[0], "--place", places[1])
        assert outcome.status == 0, outcome.err
        (row,) = json.loads(outcome.out)
        assert (row["design"], row["arrangement"], row["design_in_place"]) == (1, share, share)


def test_prompt_comes_from_the_recipe_inside(conductor, words) -> None:
    assert conductor(*words, "out/both.png", "--metrics", "omission").status == 0
    outcome = conductor(*words, "out/mug.png", "--metrics", "omission")
    assert outcome.status == 1 and "give --prompt" in outcome.err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--metrics", "beauty"], "no metric 'beauty'; expected some of clip_i"),
        (["--references", "a cat"], "'a cat' is no concept; expected [NAME=]CLASS WORDS=PATH"),
        (["--references", "a cat=gone"], "no image or folder 'gone' of 'a cat'"),
        (["--references", "a cat=."], "'.' holds no images"),
        (["gone.png"], "no image 'gone.png'"),
        (["--place", "left"], "'left' is no place; expected a mask that is there, or left,top,right,bottom"),
        (["--place", "0,0,2,1"], "the place 0,0,2,1 is none"),
        (["--place", "0,0,0.5,1"], "1 places are given for the 2 concepts"),
        (["--device", "tpu9"], "no device 'tpu9'"),
        (["--checkpoint", "clip"], "'clip' is no measuring model"),
        (["--checkpoint", "clap=x"], "no measuring model 'clap' to choose; expected grounding_dino"),
    ],
)
def test_bad_input_is_one_sentence(conductor, words, more, said) -> None:
    outcome = conductor(*words, "out/mug.png", "--prompt", "x", *more)
    assert outcome.status == 1 and said in outcome.err and outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1


def test_without_concepts_the_text_is_measured(conductor, words, tiny_clip) -> None:  # noqa: F811
    outcome = conductor(
        "score", "out", "--model", "mini", "--prompt", "a dog", "--checkpoint", f"clip={tiny_clip}", "--json"
    )
    assert outcome.status == 0, outcome.err
    rows = json.loads(outcome.out)
    assert [sorted(row) for row in rows] == [["clip_t", "image"]] * 2
    assert all(-1 < row["clip_t"] < 1 for row in rows)
