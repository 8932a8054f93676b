"""What a checkpoint's scheduler says of the model's training, and DDIM made from that.

DDIM, which the method inverts and aligns with, takes the place of the sampler that a checkpoint names, and what only
that sampler reads is dropped. Betas, prediction type, zero terminal SNR and "trailing" timesteps are honoured.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import diffusers
from diffusers import DDIMScheduler
from pydantic import AfterValidator, Field, model_validator

from concept_conductor.backbones import config_names
from concept_conductor.backbones.component_configs import (
    Beta,
    ComponentConfig,
    Off,
    Only,
    known_fields,
    validated,
)
from concept_conductor.errors import ConductorError, FamilyError

#: What the U-Nets of supported checkpoints predict.
PREDICTIONS = ("epsilon", "v_prediction")

TRAIN_TIMESTEPS = 1000

#: Samplers of models that are trained to tell noise from images, by the names of their classes.
SAMPLERS = (
    "DDIMScheduler",
    "DDIMParallelScheduler",
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)


class SchedulerConfig(ComponentConfig):
    """What a scheduler's configuration says of the training, and of the timesteps that are visited."""

    ignored = config_names.SAMPLERS

    num_train_timesteps: Annotated[int, AfterValidator(Only(TRAIN_TIMESTEPS))] = TRAIN_TIMESTEPS
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Annotated[list[Beta], Field(min_length=TRAIN_TIMESTEPS, max_length=TRAIN_TIMESTEPS)] | None = None
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    set_alpha_to_one: bool = True
    steps_offset: Annotated[int, Field(ge=0, le=1)] = 0
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    rescale_betas_zero_snr: bool = False
    clip_sample: bool = True
    thresholding: Off = False
    use_flow_sigmas: Off = False
    use_dynamic_shifting: Off = False
    flow_shift: Annotated[float, AfterValidator(Only(1.0))] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> SchedulerConfig:
        if self.beta_start > self.beta_end:
            raise ValueError(f"'beta_start' {self.beta_start} is above 'beta_end' {self.beta_end}; expected less")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError(
                "'rescale_betas_zero_snr' makes the last timestep pure noise, of which 'epsilon' tells nothing; "
                "expected the 'prediction_type' v_prediction with it"
            )
        return self


def check_scheduler(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return a scheduler's configuration without what only its own sampler reads.

    Raises:
        FamilyError: it belongs to models of another kind.
        ConductorError: it says what cannot be, or what DDIM does not honour.
    """
    name = data.get("_class_name", "DDIMScheduler")
    if name not in SAMPLERS:
        raise FamilyError(
            f"'{source}' is of the class {name!r:.60}, for models that are distilled or trained in another way; "
            "expected a Stable Diffusion model's scheduler, such as DDIMScheduler or EulerDiscreteScheduler"
        )
    config = validated(SchedulerConfig, known_fields(SchedulerConfig, data, source), source)
    if name.startswith("DDIM") and config.timestep_spacing == "linspace":
        raise ConductorError(
            f"'{source}': 'timestep_spacing' linspace visits timestep 0, which DDIM inversion does not; expected "
            "leading or trailing"
        )
    return {"_class_name": name, **config.given()}


def make_scheduler(config: Mapping[str, Any]) -> Any:
    """Return the scheduler that a checked configuration describes, of the class that it names.

    Its class is kept for those who save the model again; where that wants a package that is missing, it is DDIM's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' own, of numpy
        try:
            return getattr(diffusers, config.get("_class_name", "DDIMScheduler")).from_config(dict(config))
        except ImportError:
            return DDIMScheduler.from_config(dict(config))


def ddim(scheduler: Any) -> DDIMScheduler:
    """Return DDIM with the noise schedule of a checkpoint's scheduler.

    It visits "leading" timesteps as the paper does, and "trailing" ones where the scheduler says so, or where the last
    timestep is pure noise, at which such a model has to begin.

    Raises:
        FamilyError: the scheduler belongs to models of another kind.
        ConductorError: it says what DDIM does not honour.
    """
    names = [kind.__name__ for kind in type(scheduler).__mro__]
    name = next((name for name in names if name in SAMPLERS), names[0])
    config = check_scheduler({**scheduler.config, "_class_name": name}, f"the {name}")
    changes: dict[str, Any] = {"clip_sample": False, "thresholding": False, "timestep_spacing": "leading"}
    if config.get("rescale_betas_zero_snr") or config.get("timestep_spacing") == "trailing":
        changes |= {"timestep_spacing": "trailing", "steps_offset": 1}  # so that inversion visits the last timestep
    return DDIMScheduler.from_config(config, **changes)
