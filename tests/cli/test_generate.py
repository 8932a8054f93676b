"""`conductor generate`: what it writes, and what it leaves behind when something fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from concept_conductor import ConceptConductorPipeline, rendering
from concept_conductor.cli import generate
from concept_conductor.provenance import Provenance
from concept_conductor.recipe import Recipe
from tests.conftest import TINY


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


SEED_0 = {"seed-0000.png", "seed-0000-masks.png", "seed-0000-mask-1-chow_dog.png", "seed-0000-mask-2-siberian_cat.png"}
COMMON = {"grid.png", "layout.png", "run.json"}


def test_everything_is_written(conductor, recipe: Path, quick) -> None:
    outcome = conductor("generate", recipe)
    assert outcome.status == 0, outcome.err
    folder = Path("outputs/pets")
    assert names(folder) == COMMON | SEED_0 | {name.replace("0000", "0001") for name in SEED_0}
    assert [line.split()[0] for line in outcome.out.splitlines()] == [
        str(folder / "seed-0000.png"),
        str(folder / "seed-0001.png"),
    ]
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["seeds"] == {"asked": [0, 1], "finished": [0, 1]}
    assert record["settings"]["alignment"]["step_size"] == 10.0
    assert record["settings"]["concepts"][0]["weight"] == 0.7
    assert record["settings"]["width"] == 128
    assert set(record["sha256"]["files"]) == {"chow_dog.pth", "siberian_cat.pth", "ref.png", "mask1.png", "mask2.png"}
    with Image.open(folder / "seed-0000-mask-1-chow_dog.png") as mask:
        assert np.asarray(mask)[:32].all()
        assert not np.asarray(mask)[32:].any()


def test_the_call_is_the_recipes(conductor, recipe: Path, quick) -> None:
    recipe.write_text(recipe.read_text() + "refinement: off\nnegative_prompt: blurred\nguidance_scale: 5\n")
    assert conductor("generate", recipe, "--seeds", "3", "--out", "here").status == 0
    (call,) = quick.calls
    assert call["prompt"] == "A dog and a cat on the beach."
    assert call["negative_prompt"] == "blurred"
    assert call["guidance_scale"] == 5
    assert call["refinement"] is None
    assert call["inversion"].cache is False
    assert [entry.weight for entry in call["concepts"]] == [0.7, 0.6]
    assert call["generator"].initial_seed() == 3
    assert call["layout"].image.mode == "RGB"
    assert len(call["layout"].masks) == 2


def test_a_png_carries_its_recipe(conductor, recipe: Path, quick) -> None:
    conductor("generate", recipe, "--seeds", "0,5", "--out", "here")
    made = Provenance.read("here/seed-0005.png")
    assert made.seed == 5
    assert made.recipe.seeds == (5,)
    assert made.recipe.steps == 2
    assert (Path("here") / made.folder).resolve() == recipe.parent
    assert made.model is not None
    assert made.versions["torch"] == torch.__version__


def test_json_says_what_was_made_and_nothing_else(conductor, recipe: Path, quick) -> None:
    outcome = conductor("generate", recipe, "--json")
    assert json.loads(outcome.out)["status"] == "finished"
    assert outcome.err == ""


def test_previews(conductor, recipe: Path, quick) -> None:
    assert conductor("generate", recipe, "--seeds", "0", "--previews", "--out", "here").status == 0
    assert {name for name in names(Path("here")) if "previews" in name} == {
        "previews/seed-0000-step-001.png",
        "previews/seed-0000-step-002.png",
    }


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted: 1 of 2 pictures are finished and kept in 'here'\n"),
        (torch.cuda.OutOfMemoryError("x"), 1, "the GPU ran out of memory; set 'paths_per_forward: 1' in the recipe"),
    ],
)
def test_what_was_finished_is_kept(
    conductor, recipe: Path, quick, error: BaseException, status: int, said: str
) -> None:
    quick.errors[1] = error
    outcome = conductor("generate", recipe, "--out", "here")
    assert outcome.status == status
    assert said in outcome.err
    assert names(Path("here")) == COMMON | SEED_0
    record = json.loads(Path("here/run.json").read_text())
    assert record["status"] == ("interrupted" if status == 130 else "failed")
    assert record["seeds"]["finished"] == [0]


def test_nothing_is_written_where_nothing_was_finished(conductor, recipe: Path, quick) -> None:
    quick.errors[0] = KeyboardInterrupt()
    outcome = conductor("generate", recipe)
    assert outcome.status == 130
    assert "no picture was finished" in outcome.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("file: chow_dog.pth", "file: mini/no-such"), "line 4: 'concepts[0].file': there is no shipped concept"),
        (("ref.png", "none.png"), "line 10: 'layout.image': there is no file"),
        (("file: chow_dog.pth", "file: mask1.png"), "line 4: 'concepts[0]': "),
        (("image: ref.png", "image: chow_dog.pth"), "line 10: 'layout.image': "),
        (("replaces: [dog, cat]", "replaces: [horse]"), "line 4: 'concepts[0]': the word 'horse' to replace is not in"),
        (("<siberian_cat_1>", "<cat>"), "'concepts[1]': the prompt 'A <cat> <siberian_cat_2>"),
        (("steps: 2\n", "steps: 2\nwidth: 100\n"), "multiples of"),
        (("model: ", "model: no-such-"), "there is no model 'no-such-"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    conductor, recipe: Path, quick, change: tuple[str, str], said: str
) -> None:
    recipe.write_text(recipe.read_text().replace(*change))
    outcome = conductor("generate", recipe, "--json")
    assert outcome.status == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not any(Path().iterdir())


@pytest.mark.parametrize("seeds", ["", "a", "3-1", "0-99999999", "-1"])
def test_bad_seeds(conductor, recipe: Path, seeds: str) -> None:
    outcome = conductor("generate", recipe, f"--seeds={seeds}")
    assert outcome.status == 1
    assert outcome.err.startswith("--seeds: expected")


def test_a_file_in_place_of_the_folder(conductor, recipe: Path) -> None:
    outcome = conductor("generate", recipe, "--out", recipe)
    assert outcome.status == 1
    assert "is a file; expected a folder" in outcome.err


def test_the_real_pipeline_through_the_python_face(recipe: Path, tiny_pipe: ConceptConductorPipeline) -> None:
    chosen = generate.with_seeds(Recipe.load(recipe), "4")
    chosen = chosen.model_copy(update={"inversion": chosen.inversion.model_copy(update={"steps": 2})})
    steps: list[tuple[bool, int]] = []
    (picture,) = chosen.run(tiny_pipe, lambda report: steps.append((report.preview is None, report.step)))
    assert steps == [(True, 1), (True, 2), (False, 1), (False, 2)]  # inverted, then denoised
    assert picture.seed == 4
    assert picture.image.size == (128, 128)
    assert picture.masks.shape[0] == 2
    assert picture.provenance.model is None


def test_loading_a_model(recipe: Path) -> None:
    pipe = rendering.load_pipeline(TINY, Recipe.load(recipe))
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.float32)
    with pytest.raises(ValueError, match="there is no CUDA device here"):
        rendering.load_pipeline(TINY, Recipe.load(recipe).model_copy(update={"device": "cuda"}))
