"""`conductor doctor`: what a recipe needs, what would save memory, and what is wrong with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file

from concept_conductor.cli import main
from concept_conductor.memory.doctor import Diagnosis
from concept_conductor.memory.estimate import MemoryOptions
from tests.conftest import TINY, TINY_XL
from tests.memory.conftest import dry_run

CONCEPTS = (("chow_dog", "dog"), ("siberian_cat", "cat"))


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    shutil.copytree(TINY, tmp_path / "model")
    for name in ("ref", "mask1", "mask2"):
        shutil.copy(TINY / f"{name}.png", tmp_path)
    for name, _ in CONCEPTS:
        shutil.copy(TINY / f"{name}.pth", tmp_path)
    concepts = [{"file": f"{name}.pth", "replaces": word} for name, word in CONCEPTS]
    layout = {"image": "ref.png", "prompt": "a street", "masks": ["mask1.png", "mask2.png"]}
    return {"model": "model", "prompt": "a dog and a cat", "concepts": concepts, "layout": layout}


def run(folder: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Exit status, and what was printed."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit) as left:
        main(["doctor", str(file), *options])
    return int(left.value.code or 0), capsys.readouterr().out


def test_a_good_recipe(tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    status, text = run(tmp_path, recipe, capsys, "--json")
    found = json.loads(text)
    assert status == 0 and found["problems"] == [] and found["concepts"] == 2
    assert found["options"][0]["settings"] == [] and found["options"][0]["card"] == 6
    assert set(found["phases"]) == {"texts", "reference", "alignment", "injection", "image"}
    console = Console(width=120)
    with console.capture() as shown:  # what is printed without --json
        console.print(Diagnosis.model_validate(found))
    printed = " ".join(shown.get().split())
    for words in ("SD1.5, 128x128 px, 2 concepts, float16", "(not measured)", "as the recipe is", "6 GB"):
        assert words in printed


def test_what_the_recipe_saves_already_counts(
    tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["concepts"], recipe["layout"]["masks"] = recipe["concepts"][:1], ["mask1.png"]
    saving = {**recipe, "offload": True, "paths_per_forward": 1, "alignment": {"gradient_checkpointing": True}}
    found = json.loads(run(tmp_path, saving, capsys, "--json")[1])
    plain = dry_run(dtype=torch.float16).estimate(MemoryOptions())
    assert all(size < plain.phases[phase] for phase, size in found["phases"].items())
    proposed = {text.partition(":")[0] for option in found["options"] for text in option["settings"]}
    assert proposed <= {"vae_tiling"}


def test_what_is_wrong_is_said(tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mask1.png").unlink()
    (tmp_path / "chow_dog.pth").unlink()
    status, text = run(tmp_path, recipe, capsys, "--json")
    problems = json.loads(text)["problems"]
    assert status == 1 and len(problems) == 2
    assert "concepts[0].file" in problems[0] and "layout.masks[0]" in problems[1]


def test_a_concept_of_another_family(
    tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(TINY_XL / "chow_dog.pth", tmp_path)
    status, text = run(tmp_path, recipe, capsys)
    assert status == 1 and "2 text encoders (SDXL)" in text and "concepts[0].file" in text


def test_a_size_that_the_model_cannot_do(
    tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status, text = run(tmp_path, {**recipe, "width": 100}, capsys)
    assert status == 1 and "multiples of 64" in text


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        ("unet/config.json", {"time_cond_proj_dim": 8}, "'time_cond_proj_dim': a distilled U-Net"),
        ("text_encoder/config.json", {"attn_implementation": "someone/kernel"}, "names an attention kernel"),
        ("scheduler/scheduler_config.json", {"beta_end": "0.012"}, "'beta_end'"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 10}, "reads 77 tokens"),
    ],
)
def test_a_model_that_generate_would_refuse(
    file: str, fields: dict[str, Any], sentence: str,
    tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "model" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    status, text = run(tmp_path, recipe, capsys, "--json")
    (problem,) = json.loads(text)["problems"]
    assert status == 1 and sentence in problem and "'model'" in problem
    with pytest.raises(SystemExit):
        main(["generate", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")])
    assert " ".join(problem.split()) in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_in_one_file(
    tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its family is told by its weights; its configuration is not fetched, but taken as published."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    width = torch.zeros(4, 1024)
    save_file(
        {"model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": width},
        tmp_path / "m.safetensors",
    )
    alone = {**recipe, "model": "m.safetensors", "concepts": [], "layout": None, "width": 512, "height": 512}
    status, text = run(tmp_path, alone, capsys)
    assert status == 0 and "SD2.1, 512x512 px" in text
    save_file({"edm_mean": torch.zeros(1)}, tmp_path / "m.safetensors")
    status, text = run(tmp_path, alone, capsys)
    assert status == 1 and "EDM's noise" in text


def test_a_model_elsewhere(tmp_path: Path, recipe: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    away = {**recipe, "model": "someone/something", "concepts": [], "layout": None, "width": 512, "height": 512}
    status, text = run(tmp_path, away, capsys)
    assert status == 1 and "--family sd15, sd21, sdxl" in text
    status, text = run(tmp_path, away, capsys, "--family", "sd15")
    assert status == 0 and "SD1.5, 512x512 px, 0 concepts" in text
