"""The texts that a training reads are those that sampling will read."""

from __future__ import annotations

from pathlib import Path

import torch

from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.sd15 import SD15Backbone
from concept_conductor.denoiser.layers import cross_attention_names
from concept_conductor.training.trainer import Trainer
from tests.training.conftest import recipe


def test_of_one_encoder(backbone: SD15Backbone, photos: Path) -> None:
    trainer = Trainer(backbone, recipe(photos, steps=2, learning_rates={"embeddings": 1e-1, "text_encoder": 1e-1}))
    list(trainer.run(resume=False))
    prompts = ["a <toy_1> <toy_2> here", "one <toy_2>, <toy_1>"]
    with torch.no_grad(), trainer.parameters.inserted():
        conditioning, positions = trainer.objective.texts(prompts)
    expected = backbone.encode_concept_prompts(trainer.concept(), 1.0, prompts)
    for row, text in enumerate(expected):
        assert torch.allclose(conditioning.texts[0, row], text.texts[0, 0], atol=1e-5)
    assert conditioning.texts.shape[2] == len(cross_attention_names(backbone.unet))
    assert positions[0, 1] == positions[0, 0] + 1


def test_of_two_encoders(backbone_xl: Backbone, photos: Path) -> None:
    rates = {"embeddings": 5e-2, "text_encoder": 1e-2, "unet": 1e-2}
    trainer = Trainer(backbone_xl, recipe(photos, steps=2, learning_rates=rates))
    list(trainer.run(resume=False))
    prompts = ["a <toy_1> <toy_2> here", "one <toy_2>, <toy_1>"]
    with torch.no_grad(), trainer.parameters.inserted():
        read, _ = trainer.objective.texts(prompts)
    expected = backbone_xl.encode_concept_prompts(trainer.concept(), 1.0, prompts)
    assert read.pooled is not None
    for row, text in enumerate(expected):
        assert text.pooled is not None
        assert torch.allclose(read.texts[0, row], text.texts[0, 0], atol=1e-5)
        assert torch.allclose(read.pooled[0, row], text.pooled[0, 0], atol=1e-5)
