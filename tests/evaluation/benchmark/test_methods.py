"""Methods that packages add, and the example in docs/evaluation.md."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch

from concept_conductor import __version__
from concept_conductor.errors import ConductorError
from concept_conductor.evaluation import registry
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.jobs import plan
from concept_conductor.evaluation.benchmark.methods import METHODS, Method, find_methods, register_method
from concept_conductor.evaluation.benchmark.results import ResultsFolder
from concept_conductor.evaluation.benchmark.runner import LocalRunner, run
from concept_conductor.io.images import load_image, read_recipe

GREY = Method("grey", "a grey image", sampler=lambda rendering, seed: torch.full((3, 64, 64), seed / 10))


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch):
    """What the entry points of installed packages give; forgotten afterwards."""
    known: dict[str, Method] = dict(METHODS)
    found: dict[str, object] = {"grey": GREY}
    entry = EntryPoint("grey", "somewhere:GREY", METHODS.group)
    monkeypatch.setattr(EntryPoint, "load", lambda self: found[self.name])
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == METHODS.group else [])
    yield found
    METHODS.clear()
    METHODS.update(known)


def test_a_plug_ins_method_makes_images_of_its_own(plugged, benchmark_file: Path, tmp_path: Path) -> None:
    benchmark = Benchmark.load(benchmark_file)
    folder = ResultsFolder.open(tmp_path / "results", benchmark)
    jobs = plan(benchmark, find_methods(["grey"]), folder.layouts)[:2]
    run(folder, jobs, LocalRunner(), lambda job: None)
    for job in jobs:
        assert (np.asarray(load_image(folder.image(job.key))) == round(255 * job.seed / 10)).all()
        assert folder.masks(job.key).shape[0] == 0
        with pytest.raises(ConductorError):
            read_recipe(folder.image(job.key))  # a replay would make the full method's image
    manifest = folder.write_manifest(benchmark, jobs, "finished")
    assert manifest["methods"] == {"grey": "a grey image"}
    assert manifest["versions"]["concept-conductor"] == __version__


def test_plug_ins_that_are_none_or_clash(plugged) -> None:
    with pytest.raises(ConductorError, match="there is no method 'gray'; expected some of full, .*grey"):
        find_methods(["gray"])
    with pytest.raises(ConductorError, match="a method 'full' is known already"):
        register_method(Method("full", "another"))
    plugged["grey"] = "grey"
    with pytest.raises(ConductorError, match="the entry point 'grey' of concept_conductor.methods gives a str"):
        find_methods(["gray"])


def test_the_example_of_an_own_method_runs(plugged) -> None:
    text = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(example, {})
    (weak,) = find_methods(["weak"])
    assert weak.changes["alignment"].step_size == 5.0
