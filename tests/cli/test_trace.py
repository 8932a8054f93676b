"""`--trace`: where it writes, and what it refuses before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from concept_conductor import ConceptConductorPipeline
from concept_conductor.recipes import model
from concept_conductor.recipes.runner import generate
from concept_conductor.recipes.schema.recipe import Recipe


@pytest.mark.parametrize(("seeds", "folders"), [("3", ["inside"]), ("3,12", ["inside/seed-0003", "inside/seed-0012"])])
def test_a_folder_for_each_of_several_seeds(conductor, recipe: Path, quick, seeds: str, folders: list[str]) -> None:
    assert conductor("generate", recipe, "--seeds", seeds, "--trace", "inside").status == 0
    assert [call["trace"] for call in quick.calls] == [Path(folder) for folder in folders]


def test_a_recipe_run_in_python_has_one_too(recipe: Path, quick) -> None:
    list(generate(Recipe.load(recipe), trace="inside"))
    assert [call["trace"] for call in quick.calls] == [Path("inside/seed-0000"), Path("inside/seed-0001")]


def test_a_replay_has_one_too(conductor, recipe: Path, quick) -> None:
    assert conductor("generate", recipe, "--seeds", "3", "--out", "made").status == 0
    outcome = conductor("replay", "made/seed-0003.png", "--trace", "inside", "--out", "inside")
    assert outcome.status == 1
    assert "would hold the results too" in outcome.err
    assert len(quick.calls) == 1
    outcome = conductor("replay", "made/seed-0003.png", "--trace", "inside")
    assert outcome.status == 0, outcome.err
    assert outcome.out.endswith(f"{Path('inside/index.html')}  a look inside\n")
    assert [call["trace"] for call in quick.calls] == [None, Path("inside")]


def test_no_trace_unless_asked(conductor, recipe: Path, quick) -> None:
    assert conductor("generate", recipe).status == 0
    assert [call["trace"] for call in quick.calls] == [None, None]


def test_the_real_thing(conductor, recipe: Path, tiny_pipe: ConceptConductorPipeline, monkeypatch) -> None:
    monkeypatch.setattr(model, "load_pipeline", lambda *_, **__: tiny_pipe)
    recipe.write_text(recipe.read_text().replace("steps: 999", "steps: 2"))
    outcome = conductor("generate", recipe, "--seeds", "0", "--out", "out", "--trace", "deep/inside")
    assert outcome.status == 0, outcome.err
    assert {"index.html", "contact-sheet.png", "run.gif", "trace.json"} <= {
        f.name for f in Path("deep/inside").iterdir()
    }
    assert "deep/inside/index.html" in outcome.out


@pytest.mark.parametrize("seeds", ["0", "0-1"])
def test_a_file_is_in_the_way(conductor, recipe: Path, quick, seeds: str) -> None:
    outcome = conductor("generate", recipe, "--seeds", seeds, "--trace", recipe)
    assert outcome.status == 1
    assert "is a file; expected a folder for the trace" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not quick.calls
    assert not any(Path().iterdir())


def test_a_folder_of_other_things_is_left_alone(conductor, recipe: Path, quick) -> None:
    outcome = conductor("generate", recipe, "--seeds", "0", "--trace", recipe.parent)
    assert outcome.status == 1
    assert "holds other files; a trace takes a folder of its own" in outcome.err
    assert recipe.is_file()
    assert not quick.calls


def test_a_safety_checker(conductor, recipe: Path, quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "safety_checker", torch.nn.Identity(), raising=False)
    outcome = conductor("generate", recipe, "--trace", "inside")
    assert outcome.status == 1
    assert "no trace with this checkpoint: its safety checker judges finished images" in outcome.err
    assert not quick.calls


@pytest.mark.parametrize(
    ("seeds", "trace", "out"),
    [("0", "here", "here"), ("0", "here", "here/out"), ("0-1", "here", "here/seed-0001"), ("0", "a/../here", "here")],
)
def test_results_do_not_go_into_a_trace(conductor, recipe: Path, quick, seeds: str, trace: str, out: str) -> None:
    outcome = conductor("generate", recipe, "--seeds", seeds, "--trace", trace, "--out", out)
    assert outcome.status == 1
    assert f"would hold the results too, which go to '{out}'" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not quick.calls
    assert not any(Path().iterdir())


def test_a_trace_may_lie_among_the_results(conductor, recipe: Path, quick) -> None:
    assert conductor("generate", recipe, "--seeds", "0", "--trace", "here/inside", "--out", "here").status == 0
