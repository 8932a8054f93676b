"""What is trained, before the first step: the model itself, with vectors of the initialisers in the placeholders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from concept_conductor.backbones.base import Backbone
from concept_conductor.training.trainer import Trainer
from tests.training.conftest import recipe


def test_it_starts_from_the_model_itself(published: Backbone, photos: Path) -> None:
    concept = Trainer(published, recipe(photos, rank=3)).concept()
    (reader,) = published.text_encoders
    vector = reader.embedding.weight[reader.tokenizer("a").input_ids[1]]
    assert torch.equal(concept.tokens[0]["<toy_2>"], vector.expand(16, -1))
    assert concept.tokens[0]["<toy_1>"].std() == pytest.approx(0.013, rel=0.5)
    assert len(concept.unet) == 128
    assert len(concept.text_encoders[0]) == 8
    for pair in concept.unet.values():
        assert pair.rank == 3
        assert not pair.up.any()
        bound = pair.down.shape[1] ** -0.5
        assert 0.5 * bound < pair.down.abs().max() <= bound


def test_each_encoder_has_its_own_initialiser(backbone_xl: Backbone, photos: Path) -> None:
    concept = Trainer(backbone_xl, recipe(photos)).concept()
    for reader, table in zip(backbone_xl.text_encoders, concept.tokens, strict=True):
        word = reader.tokenizer("a", add_special_tokens=False).input_ids[0]
        assert torch.equal(table["<toy_2>"], reader.embedding.weight[word].expand(backbone_xl.text_layers, -1))
        assert table["<toy_1>"].std() == pytest.approx(0.013, rel=0.6)
    assert not torch.equal(concept.tokens[0]["<toy_1>"], concept.tokens[1]["<toy_1>"])
