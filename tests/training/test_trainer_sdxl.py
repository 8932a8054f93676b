"""Training a concept on SDXL: two text encoders, pooled texts, sizes; and what it shares with SD1.5."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch

from concept_conductor import Concept
from concept_conductor.backbones.base import Backbone
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.method.sampling import sample_alone
from concept_conductor.training.trainer import Trainer, train
from tests.training.conftest import assert_trained_alike, numbers, recipe

FAST = {"embeddings": 5e-2, "text_encoder": 1e-2, "unet": 1e-2}


@torch.no_grad()
def loss_now(trainer: Trainer) -> float:
    with trainer.objective.prepared() as paths:
        return float(sum(trainer.objective.losses(step, paths)[0] for step in range(4)))


def test_the_loss_falls_and_everything_moves(backbone_xl: Backbone, photos: Path) -> None:
    rank = {"text_encoder": [2, 3], "unet": 4}
    config = recipe(photos, steps=20, batch=2, rank=rank, learning_rates=FAST, norm_threshold=100, checkpoint_every=99)
    trainer = Trainer(backbone_xl, config)
    start, before = numbers(trainer.concept()), loss_now(trainer)
    list(trainer.run(resume=False))
    assert loss_now(trainer) < 0.97 * before
    still = {name for name, tensor in numbers(trainer.concept()).items() if torch.equal(tensor, start[name])}
    # the first encoder is read before its last layer, which therefore learns nothing
    assert all(name.startswith("text0.encoder.layers.1.") for name in still)
    assert len(still) == 8
    ranks = [
        {pair.rank for pair in layers.values()} for layers in (*trainer.concept().text_encoders, trainer.concept().unet)
    ]
    assert ranks == [{2}, {3}, {4}]


def test_each_encoder_has_its_own_norm_rule(backbone_xl: Backbone, photos: Path) -> None:
    config = recipe(photos, steps=3, norm_threshold=[1e-3, 100], learning_rates=FAST)
    trainer = Trainer(backbone_xl, config)
    with closing(trainer.run(resume=False)) as steps:
        assert not next(steps).frozen  # not all
        first = trainer.concept()
        list(steps)
    assert trainer.parameters.frozen == [True, False]
    end = trainer.concept()
    assert torch.equal(first.tokens[0]["<toy_1>"], end.tokens[0]["<toy_1>"])
    assert not torch.equal(first.tokens[1]["<toy_1>"], end.tokens[1]["<toy_1>"])


def test_resumed_equals_uninterrupted(backbone_xl: Backbone, photos: Path) -> None:
    config = recipe(photos, steps=5, checkpoint_every=2, learning_rates=FAST)
    whole = Trainer(backbone_xl, config)
    expected = [step.loss for step in whole.run(resume=False)]
    with closing(Trainer(backbone_xl, config).run(resume=False)) as steps:
        for _ in range(3):
            next(steps)
    second = Trainer(backbone_xl, config)
    assert [step.step for step in second.run()] == [3, 4, 5]
    assert [row[0] for row in second.history] == pytest.approx(expected, rel=1e-4)
    assert_trained_alike(second.concept(), whole.concept(), min(FAST.values()))


@pytest.mark.parametrize("file", ["toy.safetensors", "toy.pth"])
def test_the_file_loads_and_makes_images(backbone_xl: Backbone, photos: Path, tmp_path: Path, file: str) -> None:
    form = "ours" if file.endswith("s") else "mixofshow"
    samples = {"prompts": ["a <TOK>"], "steps": 2, "weights": [0.0, 1.0]}
    config = recipe(photos, steps=2, output=tmp_path / file, format=form, samples=samples, learning_rates=FAST)
    trained = train(config, backbone=backbone_xl)
    assert (config.folder / "samples-00002.png").is_file() and (config.folder / "curves.png").is_file()
    assert (config.folder / "log.csv").read_text().startswith("step,loss,attention,norm_1,norm_2\n")
    loaded = Concept.load(config.output)
    backbone_xl.check(loaded)
    ours, theirs = numbers(trained), numbers(loaded)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    (text,) = backbone_xl.encode_concept_prompts(loaded, 0.7, ["a <toy_1> <toy_2>"])
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(sample_alone(backbone_xl, text, ScaledUpdates(loaded.unet, 0.7), latents, 2, 1.0)).all()


@pytest.mark.parametrize("name", ["backbone", "backbone_xl"])
def test_gradient_checkpointing_changes_nothing(name: str, photos: Path, request: pytest.FixtureRequest) -> None:
    model: Backbone = request.getfixturevalue(name)
    results = []
    for checkpointing in (False, True):
        trainer = Trainer(model, recipe(photos, steps=2, learning_rates=FAST, gradient_checkpointing=checkpointing))
        list(trainer.run(resume=False))
        results.append((trainer.history, numbers(trainer.concept())))
    (plain, ours), (recomputed, theirs) = results
    assert torch.tensor(plain).allclose(torch.tensor(recomputed), rtol=1e-5)
    for key, tensor in ours.items():
        assert torch.allclose(tensor, theirs[key], atol=1e-4), key  # Adam's first steps depend on signs alone
    for module in (module for network in model.models for module in network.modules()):
        assert not getattr(module, "gradient_checkpointing", False) and not module.training


@pytest.mark.parametrize("name", ["backbone", "backbone_xl"])
def test_half_precision_trains(name: str, photos: Path, request: pytest.FixtureRequest) -> None:
    """bf16 as on CUDA, where it is SDXL's default: the concept itself stays in fp32."""
    model: Backbone = request.getfixturevalue(name)
    trainer = Trainer(model, recipe(photos, steps=2, precision="bf16", learning_rates=FAST))
    exact = Trainer(model, recipe(photos, steps=2, learning_rates=FAST))
    rough, fine = ([step.loss for step in one.run(resume=False)] for one in (trainer, exact))
    assert rough == pytest.approx(fine, rel=0.1) and rough != fine
    assert {tensor.dtype for tensor in numbers(trainer.concept()).values()} == {torch.float32}
