"""The loop: what it changes, what it leaves alone, and that it goes on where it was stopped."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from concept_conductor import Concept
from concept_conductor.backbones.base import Backbone
from concept_conductor.errors import ConductorError
from concept_conductor.training.trainer import Trainer, TrainingStep, train
from tests.training.conftest import SIDE, assert_trained_alike, draw, numbers, recipe


def weights(backbone: Backbone) -> dict[str, Tensor]:
    models = enumerate(backbone.models)
    return {f"{k}.{name}": v.clone() for k, model in models for name, v in model.state_dict().items()}


def run(trainer: Trainer) -> list[TrainingStep]:
    return list(trainer.run(resume=False))


@torch.no_grad()
def losses_now(trainer: Trainer) -> tuple[float, float]:
    """Both losses over the first steps' batches and noise, as the concept is now."""
    with trainer.objective.prepared() as paths:
        pairs = [trainer.objective.losses(step, paths) for step in range(4)]
    return float(sum(loss for loss, _ in pairs)), float(sum(attention for _, attention in pairs))


@pytest.mark.parametrize(("weight", "which"), [(0, 0), (10, 1)])
def test_training_lowers_both_losses(backbone: Backbone, photos: Path, weight: float, which: int) -> None:
    rates = {"embeddings": 5e-2, "text_encoder": 1e-2, "unet": 1e-2}
    config = recipe(
        photos,
        steps=20,
        learning_rates=rates,
        norm_threshold=100,
        regularisation={"weight": weight},
        checkpoint_every=99,
    )
    trainer = Trainer(backbone, config)
    before = losses_now(trainer)
    run(trainer)
    after = losses_now(trainer)
    assert after[which] < 0.95 * before[which], (before, after)
    assert before[1] <= 4 * 2 * 2  # four batches, two placeholders, two resolutions


def test_the_model_is_what_it_was(backbone: Backbone, photos: Path) -> None:
    before, processors = weights(backbone), dict(backbone.unet.attn_processors)
    modules = [dict(model.named_modules()) for model in (backbone.unet, backbone.text_encoders[0].model)]
    run(Trainer(backbone, recipe(photos, learning_rates={"unet": 1e-2, "text_encoder": 1e-2})))
    with closing(Trainer(backbone, recipe(photos, steps=9)).run(resume=False)) as steps:
        next(steps)  # closed half way
    after = weights(backbone)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(processor is processors[name] for name, processor in backbone.unet.attn_processors.items())
    for was, model in zip(modules, (backbone.unet, backbone.text_encoders[0].model), strict=True):
        assert all(was[name] is module for name, module in model.named_modules())
    assert not any(parameter.requires_grad for parameter in backbone.unet.parameters())


def test_the_norm_rule_freezes_the_rows(backbone: Backbone, photos: Path) -> None:
    config = recipe(photos, steps=6, learning_rates={"embeddings": 1e-2})
    trainer = Trainer(backbone, config.model_copy(update={"norm_threshold": (1e-3,)}))
    start = trainer.concept()
    with closing(trainer.run(resume=False)) as steps:
        assert next(steps).frozen
        first = trainer.concept()
        last = list(steps)[-1]
    end = trainer.concept()
    assert last.frozen
    assert all(not torch.equal(start.tokens[0][name], first.tokens[0][name]) for name in first.placeholders)
    assert all(torch.equal(first.tokens[0][name], end.tokens[0][name]) for name in first.placeholders)
    name = next(iter(end.unet))
    assert not torch.equal(first.unet[name].up, end.unet[name].up)  # low-rank training goes on


def test_everything_is_trained(published: Backbone, photos: Path) -> None:
    """Twice the usual side: of a middle block with one token, queries and keys have no gradient but for rounding."""
    trainer = Trainer(published, recipe(photos, resolution=2 * SIDE, learning_rates={"embeddings": 1e-2}))
    start = numbers(trainer.concept())
    run(trainer)
    assert not [name for name, tensor in numbers(trainer.concept()).items() if torch.equal(tensor, start[name])]


def test_half_precision_trains_alike(backbone: Backbone, photos: Path) -> None:
    """Under autocast, which on CUDA is the default."""
    exact, half = (
        run(Trainer(backbone, recipe(photos, precision=precision, learning_rates={"unet": 1e-2})))
        for precision in ("fp32", "bf16")
    )
    assert [step.loss for step in half] == pytest.approx([step.loss for step in exact], rel=0.02)


def test_learning_rates_fall_linearly_to_zero(backbone: Backbone, photos: Path) -> None:
    trainer = Trainer(backbone, recipe(photos, steps=4))
    seen = [[group["lr"] for group in trainer.optimizer.param_groups] for _ in trainer.run(resume=False)]
    for step, row in enumerate(seen):
        assert row == pytest.approx([rate * (1 - step / 4) for rate in (1e-3, 1e-5, 1e-4)])


@pytest.mark.parametrize(("count", "masks", "captions"), [(1, False, False), (1, True, True), (5, False, True)])
def test_any_folder_trains(backbone: Backbone, tmp_path: Path, count: int, masks: bool, captions: bool) -> None:
    folder = draw(tmp_path / "photos", count, masks, captions)
    concept = train(recipe(folder, steps=2, batch=3), backbone=backbone)
    assert (tmp_path / "toy.safetensors").is_file()
    assert concept.metadata["class_word"] == "a"
    assert not (tmp_path / "toy.training" / "checkpoint.pt").exists()


def test_files_made_on_the_way(backbone: Backbone, photos: Path) -> None:
    samples = {"prompts": ["a <TOK>", "two <TOK>"], "every": 2, "steps": 2}
    output = photos.parent / "toy.pth"
    config = recipe(photos, samples=samples, format="mixofshow", output=output, file_precision="fp16")
    seen: list[TrainingStep] = []
    train(config, backbone=backbone, progress=seen.append)
    assert [step.samples is not None for step in seen] == [False, True, True]
    assert [step.checkpoint is not None for step in seen] == [False, True, False]
    assert {path.name for path in config.folder.iterdir()} == {
        "samples-00002.png",
        "samples-00003.png",
        "curves.png",
        "log.csv",
    }
    assert len((config.folder / "log.csv").read_text().splitlines()) == 4
    loaded = Concept.load(config.output)
    assert loaded.placeholders == ("<toy_1>", "<toy_2>")
    assert {tensor.dtype for tensor in numbers(loaded).values()} == {torch.float16}
    backbone.check(loaded)


def test_resumed_equals_uninterrupted(backbone: Backbone, photos: Path) -> None:
    rates = {"embeddings": 1e-2, "text_encoder": 1e-3, "unet": 1e-3}
    config = recipe(photos, steps=7, checkpoint_every=3, learning_rates=rates)
    whole = Trainer(backbone, config)
    expected = [step.loss for step in run(whole)]
    with closing(Trainer(backbone, config).run(resume=False)) as steps:
        for _ in range(5):
            next(steps)
    second = Trainer(backbone, config)
    resumed = list(second.run())
    assert [step.step for step in resumed] == [4, 5, 6, 7]
    assert [row[0] for row in second.history] == pytest.approx(expected, rel=1e-4)
    assert_trained_alike(second.concept(), whole.concept(), 1e-3)


def test_a_checkpoint_of_another_training_is_refused(backbone: Backbone, photos: Path) -> None:
    with closing(Trainer(backbone, recipe(photos, steps=5)).run(resume=False)) as steps:
        for _ in range(3):
            next(steps)
    with pytest.raises(ConductorError, match="rank differ"):
        next(Trainer(backbone, recipe(photos, steps=5, rank=2)).run())
    (photos / "0.txt").write_text("a <TOK>\n")
    with pytest.raises(ConductorError, match="the images differ"):
        next(Trainer(backbone, recipe(photos, steps=5)).run())
    trainer = Trainer(backbone, recipe(photos, steps=5))
    trainer.records.checkpoint_file.write_bytes(trainer.records.checkpoint_file.read_bytes()[:100])
    with pytest.raises(ConductorError, match="damaged"):
        next(trainer.run())
    with closing(trainer.run(resume=False)) as steps:
        assert next(steps).step == 1


def test_a_run_that_breaks_says_so(backbone: Backbone, photos: Path) -> None:
    rates = {"embeddings": 1e30, "text_encoder": 1e30, "unet": 1e30}
    with pytest.raises(ConductorError, match="no longer a number"):
        run(Trainer(backbone, recipe(photos, steps=9, learning_rates=rates, norm_threshold=1e38)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"initialiser": ["x1y2z3", "a"]}, "tokens of this model"),
        ({"initialiser": ["<rand-x>", "a"]}, "tokens|number"),
        ({"resolution": SIDE + 8}, "multiple of 16"),
        ({"precision": "fp16"}, "CUDA"),
        ({"samples": {"prompts": ["a dog"]}}, "<TOK>"),
    ],
)
def test_what_does_not_fit_the_model(backbone: Backbone, photos: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConductorError, match=words):
        Trainer(backbone, recipe(photos, **changes))
