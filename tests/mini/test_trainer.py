"""The training loop: a run that was killed and resumed computes what an uninterrupted one does."""

import copy

import pytest
import torch
from torch import nn

from concept_conductor.mini.muon import orthogonalise
from concept_conductor.mini.trainer import Settings, Trainer
from tests.compare import assert_close


class Killed(Exception):
    pass


def make(state, kill_at: int | None = None) -> Trainer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.SiLU(), nn.Conv2d(8, 1, 3))

    def loss(model, generator):
        if trainer.step == kill_at:
            raise Killed
        images = torch.randn(4, 3, 8, 8, generator=generator)
        return (model(images).mean((1, 2, 3)) - images.square().mean((1, 2, 3))).square().mean()

    settings = Settings(steps=30, muon=0.05, adam=0.05, warmup=5, checkpoint_minutes=0)
    trainer = Trainer(model, copy.deepcopy(model), loss, settings, state, edges=(model[0], model[-1]))
    return trainer


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    whole = make(tmp_path / "whole.pt")
    whole.run()
    with pytest.raises(Killed):
        make(tmp_path / "killed.pt", kill_at=13).run()
    resumed = make(tmp_path / "killed.pt")
    assert resumed.step == 13
    resumed.run()
    assert resumed.step == whole.step == 30
    # with the momentum or the random stream lost, weights end hundredths apart
    assert_close(resumed.averaged.state_dict(), whole.averaged.state_dict(), atol=1e-5)
    assert not (tmp_path / "killed.partial").exists()


def test_a_finished_run_is_not_continued(tmp_path):
    make(tmp_path / "run.pt").run()
    make(tmp_path / "run.pt", kill_at=30).run()


def test_it_learns(tmp_path):
    trainer = make(tmp_path / "run.pt")
    losses = []
    trainer.run(lambda trainer: losses.append(trainer.recent))
    assert len(losses) == 30 and losses[-1] < 0.7 * losses[0]


def test_rates_rise_stay_and_fall():
    settings = Settings(steps=100, warmup=10, decay=0.4, floor=0.02)
    assert settings.rate(0, 0) == pytest.approx(0.1)
    assert settings.rate(30, 0.3) == 1
    assert settings.rate(80, 0.8) == pytest.approx(0.5)
    assert settings.rate(100, 1.0) == pytest.approx(0.02)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 40), (2, 40, 8)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
    assert values.median() > 0.6 and values.max() < 1.3
