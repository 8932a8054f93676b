"""Estimates of memory, and the settings that save it."""

from __future__ import annotations

import json
import runpy
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from concept_conductor import Alignment, ConceptConductorPipeline, ConceptPrompt, Injection, Inversion, Refinement
from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.meta import MetaModel
from concept_conductor.cli import main
from concept_conductor.errors import ConductorError
from concept_conductor.memory.estimate import DryRun, MemoryOptions, ed_lora
from concept_conductor.memory.savings import CARDS, GIB, options, smallest_card
from concept_conductor.memory.tracker import MemoryTracker
from concept_conductor.pipeline.inputs import resolve_settings
from concept_conductor.recipes.model import load_pipeline
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.settings import SamplingSettings
from tests.conftest import TINY, TINY_XL

ROOT = Path(__file__).parents[2]
FOLDERS = {"sd15": TINY, "sdxl": TINY_XL}


def settings(backbone: Backbone, **changes: Any) -> SamplingSettings:
    usual: dict[str, Any] = {
        "steps": 200, "guidance_scale": 7.5, "alignment": Alignment(), "refinement": Refinement(),
        "injection": Injection(), "inversion": Inversion(), "paths_per_forward": None,
    }  # fmt: skip
    return resolve_settings(backbone.defaults, **{**usual, **changes})


@cache
def rehearsal(
    family: str = "sd15", concepts: int = 2, side: int = 128, dtype: torch.dtype = torch.float32, **changes: Any
) -> DryRun:
    backbone = MetaModel.read(FOLDERS[family]).backbone(dtype)
    return DryRun(backbone, settings(backbone, **changes), (side, side), [ed_lora(backbone)] * concepts)


def test_what_is_alive_is_counted() -> None:
    with MemoryTracker() as tally:
        a = torch.zeros(1000)
        b = a.view(10, 100)[0]  # a view is nothing new
        c = a + 1
        assert tally.live == 8000
        a += c
        del c
        assert tally.live == 4000
        del a, b
        assert tally.live == 0
    assert tally.peak == 8000


def test_what_a_gradient_keeps_is_counted() -> None:
    x = torch.ones(1000, requires_grad=True)
    with MemoryTracker() as tally:
        y = x.exp().exp()  # each keeps its result
        assert tally.live == 8000
        y.sum().backward()
        del y
    assert tally.peak > 8000 and tally.live == 4000  # the gradient


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("paths_per_forward", [None, 1])
def test_without_data_as_much_is_alive_as_with(
    family: str, paths_per_forward: int | None, request: pytest.FixtureRequest
) -> None:
    """The estimate against the same steps of the real tiny model, whose tensors are counted as they are made."""
    pipe: ConceptConductorPipeline = request.getfixturevalue({"sd15": "tiny_pipe", "sdxl": "tiny_xl"}[family])
    empty = rehearsal(family)
    updates = [{name: type(u)(*(torch.zeros(h.shape) for h in u)) for name, u in empty.updates[1].items()}] * 2
    real = DryRun(pipe.backbone, empty.settings, (128, 128), updates)
    thrift = MemoryOptions(paths_per_forward=paths_per_forward)
    estimated, counted = empty.estimate(thrift), real.estimate(thrift)
    assert estimated.weights == counted.weights
    weights = sum(estimated.weights.values())
    for phase in estimated.phases:
        ours, theirs = estimated.phases[phase] - weights, counted.phases[phase] - weights
        assert ours == pytest.approx(theirs, rel=0.15), phase


def test_estimates_grow_with_what_is_asked_for() -> None:
    base = rehearsal().estimate(MemoryOptions())
    for larger in (rehearsal(concepts=4), rehearsal(side=256), rehearsal(guidance_scale=7.5, concepts=3)):
        grown = larger.estimate(MemoryOptions())
        assert grown.peak > base.peak
        assert all(grown.phases[phase] >= base.phases[phase] for phase in base.phases)
    assert rehearsal(guidance_scale=1.0).estimate(MemoryOptions()).phases["injection"] < base.phases["injection"]
    half = rehearsal(dtype=torch.float16).estimate(MemoryOptions())
    assert sum(half.weights.values()) * 2 == pytest.approx(sum(base.weights.values()), rel=0.01)
    assert half.phases["injection"] < base.phases["injection"]


@pytest.mark.parametrize("family", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_every_saving_setting_saves(family: str) -> None:
    many = rehearsal(family, concepts=4, side=256)
    base = many.estimate(MemoryOptions()).phases
    assert many.estimate(MemoryOptions(gradient_checkpointing=True)).phases["alignment"] < base["alignment"]
    assert many.estimate(MemoryOptions(paths_per_forward=1)).phases["alignment"] < base["alignment"]
    offloaded = many.estimate(MemoryOptions(offload=True)).phases
    assert all(offloaded[phase] < base[phase] for phase in base)


def test_tiling_saves_where_images_are_large() -> None:
    large = rehearsal(side=1024)
    tiled, whole = (large.estimate(MemoryOptions(vae_tiling=tiling)).phases["image"] for tiling in (True, False))
    assert tiled < 0.6 * whole


def test_half_precision_decodes_sdxl_in_fp32() -> None:
    small, xl = (rehearsal(family, dtype=torch.float16) for family in ("sd15", "sdxl"))
    need = [one.estimate(MemoryOptions(offload=True)) for one in (small, xl)]
    live = [estimate.phases["image"] - estimate.weights["VAE"] for estimate in need]
    assert live[1] > 1.8 * live[0]  # the same VAE, twice as wide


@pytest.mark.parametrize(
    ("family", "millions"),
    [("sd15", (859.5, 83.7, 123.1)), ("sd21", (865.9, 83.7, 340.4)), ("sdxl", (2567.5, 83.7, 123.1, 694.7))],
)
def test_published_shapes_have_the_published_sizes(family: str, millions: tuple[float, ...]) -> None:
    with torch.device("meta"):
        parts = MetaModel.published(family).networks()
    sizes = [sum(p.numel() for p in network.parameters()) / 1e6 for network in parts.values()]
    assert sizes == pytest.approx(millions, rel=1e-3)
    backbone = MetaModel.published(family).backbone(torch.float16)
    assert backbone.family == family and backbone.text_layers == (70 if family == "sdxl" else 16)


def test_options_save_more_and_more() -> None:
    backbone = MetaModel.published("sd15").backbone(torch.float16)
    found = options(DryRun(backbone, settings(backbone), (512, 512), [ed_lora(backbone)] * 4), MemoryOptions())
    assert found[0].settings == () and len(found) > 2
    peaks = [option.peak for option in found]
    assert peaks == sorted(peaks, reverse=True)
    assert all(len({text.partition(":")[0] for text in o.settings}) == len(o.settings) for o in found)
    assert smallest_card(7 * GIB) == 8 and smallest_card((CARDS[-1] + 1) * GIB) is None
    already = options(rehearsal(), MemoryOptions(1, True, True, True))
    assert [option.settings for option in already] == [()]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_gradient_checkpointing_gives_the_same_image(
    family: str, tiny_concepts: dict[str, ConceptPrompt], tiny_call: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    from concept_conductor import Concept

    pipe: ConceptConductorPipeline = request.getfixturevalue({"sd15": "tiny_pipe", "sdxl": "tiny_xl"}[family])
    entries = [
        ConceptPrompt(Concept.load(FOLDERS[family] / f"{name}.pth"), tiny_concepts[name].prompt)
        for name in ("chow_dog", "siberian_cat")
    ]
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {**tiny_call, "concepts": entries, "num_inference_steps": 2, "refinement": None, "latents": latents}
    call["inversion"] = Inversion(steps=2, cache=False)
    before = {name: vars(module).keys() for name, module in pipe.unet.named_modules()}
    plain = pipe(**call, alignment=Alignment(end=1.0)).images
    off = pipe(**call, alignment=None).images
    assert (plain - off).norm() / off.norm() > 1e-4
    for paths_per_forward in (None, 1):
        saving = Alignment(end=1.0, gradient_checkpointing=True)
        images = pipe(**call, alignment=saving, paths_per_forward=paths_per_forward).images
        assert (images - plain).norm() / plain.norm() < 1e-5
    assert {name: vars(module).keys() for name, module in pipe.unet.named_modules()} == before
    pipe.unet.enable_gradient_checkpointing()  # diffusers' own switch means the same
    try:
        images = pipe(**call, alignment=Alignment(end=1.0)).images
    finally:
        pipe.unet.disable_gradient_checkpointing()
    assert (images - plain).norm() / plain.norm() < 1e-5


class TestDoctor:
    """`conductor doctor`."""

    @pytest.fixture
    def recipe(self, tmp_path: Path) -> dict[str, Any]:
        shutil.copytree(TINY, tmp_path / "model")
        for name in ("ref", "mask1", "mask2"):
            shutil.copy(TINY / f"{name}.png", tmp_path)
        for name in ("chow_dog", "siberian_cat"):
            shutil.copy(TINY / f"{name}.pth", tmp_path)
        concepts = [{"file": f"{name}.pth", "replaces": word} for name, word in DOGS]
        layout = {"image": "ref.png", "prompt": "a street", "masks": ["mask1.png", "mask2.png"]}
        return {"model": "model", "prompt": "a dog and a cat", "concepts": concepts, "layout": layout}

    def run(
        self, folder: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], *options: str
    ) -> tuple[int, str]:
        file = folder / "recipe.yaml"
        file.write_text(yaml.safe_dump(recipe))
        with pytest.raises(SystemExit) as left:
            main(["doctor", str(file), *options])
        return int(left.value.code or 0), capsys.readouterr().out

    def test_a_good_recipe(self, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        status, text = self.run(tmp_path, recipe, capsys)
        assert status == 0
        for words in ("SD1.5, 128x128 px, 2 concepts, float16", "not measured", "as the recipe is", "6 GB"):
            assert words in text
        status, text = self.run(tmp_path, recipe, capsys, "--json")
        found = json.loads(text)
        assert status == 0 and found["problems"] == [] and found["concepts"] == 2
        assert found["options"][0]["settings"] == [] and found["options"][0]["card"] == 6
        assert set(found["phases"]) == {"texts", "reference", "alignment", "injection", "image"}

    def test_the_recipes_own_thrift_counts(
        self, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        thrifty = {**recipe, "offload": True, "paths_per_forward": 1, "alignment": {"gradient_checkpointing": True}}
        peaks = []
        for each in (recipe, thrifty):
            found = json.loads(self.run(tmp_path, each, capsys, "--json")[1])
            peaks.append(max(found["phases"].values()))
        assert peaks[1] < peaks[0]

    def test_what_is_wrong_is_said(
        self, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "mask1.png").unlink()
        (tmp_path / "chow_dog.pth").unlink()
        status, text = self.run(tmp_path, recipe, capsys, "--json")
        problems = json.loads(text)["problems"]
        assert status == 1 and len(problems) == 2
        assert "concepts[0].file" in problems[0] and "layout.masks[0]" in problems[1]

    def test_a_concept_of_another_family(
        self, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copy(TINY_XL / "chow_dog.pth", tmp_path)
        status, text = self.run(tmp_path, recipe, capsys)
        assert status == 1 and "2 text encoders (SDXL)" in text and "concepts[0].file" in text

    def test_a_size_that_the_model_cannot_do(
        self, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        status, text = self.run(tmp_path, {**recipe, "width": 100}, capsys)
        assert status == 1 and "multiples of 64" in text

    def test_a_model_elsewhere(
        self, tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        away = {**recipe, "model": "someone/something", "concepts": [], "layout": None, "width": 512, "height": 512}
        status, text = self.run(tmp_path, away, capsys)
        assert status == 1 and "--family sd15, sd21, sdxl" in text
        status, text = self.run(tmp_path, away, capsys, "--family", "sd15")
        assert status == 0 and "SD1.5, 512x512 px, 0 concepts" in text


@pytest.mark.slow
def test_the_documented_table_is_what_the_estimates_print(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first row, by ``benchmarks/estimates.py`` itself."""
    estimates = runpy.run_path(str(ROOT / "benchmarks" / "estimates.py"))
    main_of_it = estimates["main"]
    monkeypatch.setitem(main_of_it.__globals__, "RUNS", estimates["RUNS"][:1])
    monkeypatch.setitem(main_of_it.__globals__, "CONCEPTS", estimates["CONCEPTS"][:1])
    main_of_it()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3
    documented = (ROOT / "docs" / "memory.md").read_text().splitlines()
    assert all(line in documented for line in printed)


DOGS = (("chow_dog", "dog"), ("siberian_cat", "cat"))


def test_recipes_carry_the_settings_that_save_memory(tmp_path: Path) -> None:
    recipe = Recipe(prompt="a dog", model=str(TINY), device="cpu", vae_tiling=True, offload=True)
    pipe = load_pipeline(TINY, recipe)
    assert pipe.vae.use_tiling
    assert not hasattr(pipe.unet, "_hf_hook")  # on a CPU there is nothing to offload from


@pytest.mark.parametrize(
    ("config", "sentence"), [("[]", "holds no JSON object"), ('{"down_block_types": 3}', "describe no networks")]
)
def test_a_folder_whose_configurations_are_none(tmp_path: Path, config: str, sentence: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    (model / "unet" / "config.json").write_text(config)
    with pytest.raises(ConductorError, match=sentence):
        MetaModel.read(model).networks()
