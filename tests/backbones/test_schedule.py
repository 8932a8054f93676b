"""The noise schedule: diffusers' DDIM where that starts at the noise a run is given, and evenly spread elsewhere."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from concept_conductor import ConductorError
from concept_conductor.backbones.schedule import Schedule, spaced


def scheduler(**changes: object) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, timestep_spacing="leading", **changes,
    )  # fmt: skip


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7, 20, 30, 50, 200])
def test_it_is_diffusers_own(steps: int, prediction: str) -> None:
    reference = scheduler(prediction_type=prediction)
    ours = Schedule(reference, steps)
    reference.set_timesteps(steps)
    assert ours.timesteps.tolist() == reference.timesteps.tolist()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = latents
    for index, t in enumerate(reference.timesteps):
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(index))
        latents = ours.step(noise, index, latents)
        expected = reference.step(noise, t, expected, return_dict=False)[0]
    assert torch.allclose(latents, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [150, 300, 334, 501, 600, 998, 999])
def test_many_steps_start_at_the_noise_they_are_given(steps: int) -> None:
    timesteps = spaced(1000, 1, steps)
    assert len(set(timesteps)) == steps
    assert timesteps[0] >= 990 and timesteps[-1] == 1


def test_perfect_predictions_lead_to_the_clean_image_with_any_spacing() -> None:
    """A network that knows the noise denoises to the image, whole strides or not: no step takes another's alpha."""
    source = scheduler()
    clean, noise = torch.full((1, 4, 2, 2), 0.3), torch.ones(1, 4, 2, 2)
    for steps in (20, 150, 600):
        schedule = Schedule(source, steps)
        latents = source.add_noise(clean, noise, schedule.timesteps[:1])
        for index in range(steps):
            latents = schedule.step(noise, index, latents)
        last = source.final_alpha_cumprod
        assert torch.allclose(latents, last**0.5 * clean + (1 - last) ** 0.5 * noise, atol=1e-4)


@given(steps=st.integers(1, 999), offset=st.sampled_from([0, 1]), trailing=st.booleans())
def test_any_number_of_steps(steps: int, offset: int, trailing: bool) -> None:
    timesteps = spaced(1000, offset, steps, trailing=trailing)
    assert len(timesteps) == steps and timesteps == sorted(set(timesteps), reverse=True)
    assert all(0 <= t < 1000 for t in timesteps)
    if steps > 10:
        assert timesteps[0] >= 900


@pytest.mark.parametrize(("steps", "nearest"), [(1000, 999), (0, 1), (5000, 999)])
def test_other_numbers_are_told(steps: int, nearest: int) -> None:
    with pytest.raises(ConductorError, match=f"1 to 999 steps.*is {steps}; the nearest that works is {nearest}"):
        spaced(1000, 1, steps)
