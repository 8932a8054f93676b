"""Models without weights, from configurations alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from concept_conductor.backbones.meta import MetaModel
from concept_conductor.errors import ConductorError
from tests.conftest import TINY


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


@pytest.mark.parametrize(
    ("config", "sentence"),
    [("[]", "holds no JSON object"), ('{"down_block_types": 3}', "'down_block_types': expected a valid list")],
)
def test_a_folder_whose_configurations_are_none(tmp_path: Path, config: str, sentence: str) -> None:
    model = tmp_path / "model"
    shutil.copytree(TINY, model)
    (model / "unet" / "config.json").write_text(config)
    with pytest.raises(ConductorError, match=sentence):
        MetaModel.read(model).networks()
