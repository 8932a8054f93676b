"""Whole models: folders that others can load, and the hub's."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from concept_conductor import Alignment, ConceptConductorPipeline, ConductorError, FamilyError
from tests.conftest import TINY, TINY_XL
from tests.pipeline.conftest import edit, truncated, weights


def test_a_saved_model_loads_here_and_in_diffusers(
    models: dict[str, ConceptConductorPipeline], tmp_path: Path, offline: None
) -> None:
    kinds = {"sd15": StableDiffusionPipeline, "sd21": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
    for family, pipe in models.items():
        folder = tmp_path / family
        pipe.save_pretrained(folder)
        assert json.loads((folder / "model_index.json").read_text())["_class_name"] == kinds[family].__name__
        assert not (folder / "conductor.json").exists()
        again = ConceptConductorPipeline.from_pretrained(folder)
        assert again.family is pipe.family and again.defaults == pipe.defaults
        ours, theirs = weights(again), weights(kinds[family].from_pretrained(folder))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_saved_model_finds_its_inversions(tmp_path: Path) -> None:
    """They are kept by a hash of weights and configurations, into which saving writes."""
    pipe = ConceptConductorPipeline.from_pretrained(TINY)
    before = pipe.backbone.fingerprint()
    pipe.save_pretrained(tmp_path)
    assert pipe.backbone.fingerprint() == before
    assert ConceptConductorPipeline.from_pretrained(tmp_path).backbone.fingerprint() == before


def test_a_models_own_settings_are_saved_with_it(tiny_pipe: ConceptConductorPipeline, tmp_path: Path) -> None:
    own = tiny_pipe.defaults.model_copy(update={"alignment": Alignment(step_size=3.0, concept_weight=1.0, end=0.5)})
    ConceptConductorPipeline(**tiny_pipe.components, defaults=own).save_pretrained(tmp_path)
    assert ConceptConductorPipeline.from_pretrained(tmp_path).defaults == own


@pytest.mark.parametrize("damage", ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "model_index.json"])
@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_damaged_folders_are_one_sentence(damage: str, how: str, tmp_path: Path, offline: None) -> None:
    folder = shutil.copytree(TINY, tmp_path / "model")
    if how == "truncated":
        truncated(folder, damage)
    else:
        (folder / damage).unlink()
    with pytest.raises(ConductorError) as caught:
        ConceptConductorPipeline.from_pretrained(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None) -> Path:
    """The tiny SD1.5 as 'someone/tiny' in a cache of the hub's, whose files are links to blobs; its snapshot."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--someone--tiny", "0" * 40
    for folder in ("blobs", "refs"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    for file in TINY.rglob("*"):
        if file.suffix in (".json", ".txt", ".safetensors"):
            blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            shutil.copy(file, blob)
            link = snapshot / file.relative_to(TINY)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_a_model_of_the_hubs(hub: Path, tiny_pipe: ConceptConductorPipeline) -> None:
    for name in ("someone/tiny", hub):
        ours, theirs = weights(ConceptConductorPipeline.from_pretrained(name)), weights(tiny_pipe)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    with pytest.raises(ConductorError, match="the model 'someone/else' could not be loaded .* that can be reached"):
        ConceptConductorPipeline.from_pretrained("someone/else")


def test_the_hubs_index_is_looked_at_before_anything_large_is_fetched(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = hub / "model_index.json"
    content = index.read_text()
    index.unlink()
    index.write_text(content)
    edit(index, _class_name="FluxPipeline")
    monkeypatch.setattr("diffusers.DiffusionPipeline.download", lambda *_, **__: pytest.fail("it was fetched"))
    with pytest.raises(FamilyError, match="'someone/tiny' is a FluxPipeline"):
        ConceptConductorPipeline.from_pretrained("someone/tiny")


def test_a_tiny_sdxl_is_what_diffusers_takes_for_one() -> None:
    """The parity model itself cannot be told: both of its encoders are of one width, and have two layers."""
    pipe = ConceptConductorPipeline.from_pretrained(TINY_XL)
    assert pipe.text_encoder.config.hidden_size == pipe.text_encoder_2.config.hidden_size
