"""Schedulers' configurations, and the DDIM that is made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from concept_conductor import ConceptConductorPipeline
from concept_conductor.backbones.config_names import SAMPLERS as NAMES
from concept_conductor.backbones.scheduler_config import (
    SAMPLERS,
    SchedulerConfig,
    check_scheduler,
    ddim,
    make_scheduler,
)
from concept_conductor.errors import ConductorError, FamilyError
from tests.conftest import TINY

CONFIG: dict[str, Any] = json.loads((TINY / "scheduler" / "scheduler_config.json").read_text())
XL = {  # as SDXL's own file has it
    "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0.dev0", "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear",
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False,
    "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None,
    "use_karras_sigmas": False,
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_gives_ddim_with_its_betas(name: str) -> None:
    made = make_scheduler(check_scheduler({**XL, "_class_name": name}, "x"))
    assert type(made) in (getattr(diffusers, name), DDIMScheduler)
    ours = ddim(made)
    assert torch.equal(ours.alphas_cumprod, DDIMScheduler.from_config(CONFIG).alphas_cumprod)
    assert torch.equal(ours.final_alpha_cumprod, ours.alphas_cumprod[0])
    assert (ours.config.timestep_spacing, ours.config.steps_offset, ours.config.clip_sample) == ("leading", 1, False)


def test_every_setting_of_the_samplers_is_known() -> None:
    """Otherwise a file that diffusers wrote might be refused."""
    from inspect import Parameter, signature

    known = SchedulerConfig.model_fields.keys() | NAMES
    for name in set(SAMPLERS) - {"DPMSolverSDEScheduler"}:  # whose package may be missing
        parameters = signature(getattr(diffusers, name).__init__).parameters.values()
        own = {one.name for one in parameters if one.kind is Parameter.POSITIONAL_OR_KEYWORD} - {"self"}
        assert own <= known, name


def test_betas_prediction_and_spacing_are_honoured() -> None:
    betas = torch.linspace(0.001, 0.01, 1000).tolist()
    changed = {**CONFIG, "trained_betas": betas, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
    ours = ddim(make_scheduler(check_scheduler(changed, "x")))
    assert torch.allclose(ours.alphas_cumprod, (1 - torch.tensor(betas)).cumprod(0))
    assert ours.config.prediction_type == "v_prediction" and ours.config.timestep_spacing == "trailing"


def test_zero_terminal_snr_starts_at_pure_noise(tiny_pipe: ConceptConductorPipeline) -> None:
    config = {**CONFIG, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    scheduler = make_scheduler(check_scheduler(config, "x"))
    backbone = ConceptConductorPipeline(**{**tiny_pipe.components, "scheduler": scheduler}).backbone
    assert backbone.scheduler.alphas_cumprod[-1] == 0
    assert backbone.timesteps(200).tolist() == list(range(999, 0, -5))
    noise, velocity = torch.randn(2, 1, 4, 2, 2).unbind()
    # where nothing but noise is left the velocity is the clean image, turned round
    assert torch.equal(backbone.pred_original_sample(noise, velocity, torch.tensor(999)), -velocity)
    assert torch.equal(backbone.to_epsilon(noise, velocity, torch.tensor(999)), noise)
    inverse = backbone.inverse_scheduler
    inverse.set_timesteps(999)
    assert torch.isfinite(inverse.step(noise, 999, noise).prev_sample).all()


def test_the_clean_image_is_told_from_velocity_as_from_noise(tiny_pipe: ConceptConductorPipeline) -> None:
    """v = √ᾱ ε - √(1-ᾱ) x₀ of x_t = √ᾱ x₀ + √(1-ᾱ) ε."""
    parts = {**tiny_pipe.components, "scheduler": DDIMScheduler.from_config(CONFIG, prediction_type="v_prediction")}
    backbone = ConceptConductorPipeline(**parts).backbone
    clean, noise = torch.randn(2, 1, 4, 2, 2).unbind()
    t = torch.tensor(500)
    signal, rest = backbone.scheduler.alphas_cumprod[t].sqrt(), (1 - backbone.scheduler.alphas_cumprod[t]).sqrt()
    latents, velocity = signal * clean + rest * noise, signal * noise - rest * clean
    assert torch.allclose(backbone.pred_original_sample(latents, velocity, t), clean, atol=1e-5)
    assert torch.allclose(tiny_pipe.backbone.pred_original_sample(latents, noise, t), clean, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_train_timesteps": 0}, "'num_train_timesteps': .*expected 1000, but it is 0"),
        ({"num_train_timesteps": 10**12}, "'num_train_timesteps'"),
        ({"beta_schedule": "sigmoid"}, "'beta_schedule': expected 'linear', 'scaled_linear' or 'squaredcos_cap_v2'"),
        ({"beta_end": "0.012"}, "'beta_end': expected a valid number"),
        ({"beta_start": 0.5}, "'beta_start' 0.5 is above 'beta_end' 0.012"),
        ({"trained_betas": [0.1]}, "'trained_betas'"),
        ({"prediction_type": "sample"}, "'prediction_type': expected 'epsilon' or 'v_prediction', but it is 'sample'"),
        ({"rescale_betas_zero_snr": True}, "'rescale_betas_zero_snr' makes the last timestep pure noise"),
        ({"timestep_spacing": "linspace"}, "'timestep_spacing' linspace visits timestep 0"),
        ({"steps_offset": 7}, "'steps_offset'"),
        ({"thresholding": True}, "'thresholding'"),
        ({"use_flow_sigmas": True}, "'use_flow_sigmas'"),
        ({"a_new_schedule": 1}, "'a_new_schedule' is not known here"),
    ],
)
def test_what_is_not_honoured(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence) as caught:
        check_scheduler({**CONFIG, **changes}, "scheduler_config.json")
    assert "scheduler_config.json" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["LCMScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", [], 3])
def test_schedulers_of_other_models(name: Any) -> None:
    with pytest.raises(FamilyError, match="distilled or trained in another way"):
        check_scheduler({**CONFIG, "_class_name": name}, "x")


@pytest.mark.parametrize("kind", [LCMScheduler, FlowMatchEulerDiscreteScheduler])
def test_a_pipeline_in_memory_is_held_to_the_same(kind: Any, tiny_pipe: ConceptConductorPipeline) -> None:
    pipe = ConceptConductorPipeline(**{**tiny_pipe.components, "scheduler": kind()})
    with pytest.raises(FamilyError, match=kind.__name__):
        _ = pipe.backbone


def test_what_only_a_sampler_reads_is_dropped(tmp_path: Path) -> None:
    odd = {**XL, "_class_name": "DPMSolverMultistepScheduler", "solver_order": 10**30, "algorithm_type": "x"}
    assert make_scheduler(check_scheduler(odd, "x")).config.solver_order == 2
