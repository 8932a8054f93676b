"""The arguments of a pipeline call, validated in one place before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, InstanceOf, ValidationError, field_validator
from torch import Tensor

from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import explained
from concept_conductor.layouts.layout import Layout
from concept_conductor.placement.placement import Placement
from concept_conductor.settings import Alignment, Injection, Inversion, Refinement, SamplingSettings, Settings
from concept_conductor.tracing.trace import Trace

#: ``callback(pipe, step, timestep, tensors)``, which may return ``{"latents": ...}``.
StepCallback = Callable[[Any, int, int, dict[str, Tensor]], Mapping[str, Tensor] | None]

#: What callbacks can be given, and give back.
CALLBACK_TENSORS = ("latents",)


def or_default(value: Any) -> Callable[[Any], Any]:
    """Make None mean ``value``, as in diffusers."""
    return lambda given: value if given is None else given


def whole_number(value: Any) -> Any:
    """Take any kind of integer (numpy's too), but no truth value, text or float."""
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"expected a whole number, but it is {value}")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"expected a whole number, but it is {value!r}") from None


def number(value: Any) -> Any:
    """Take any kind of number, but no truth value or text."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        raise ValueError(f"expected a number, but it is {value!r}")
    return value.item() if isinstance(value, np.generic) else value


def switched(value: Any) -> Any:
    """Let False switch a part of the method off, as None does, and True leave it as it is."""
    return {} if value is True else None if value is False else value


def encodable(text: str) -> str:
    """Refuse half a surrogate pair, which no tokenizer reads.

    Raises:
        ValueError: the text holds one.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected text, but character {error.start + 1} is half a surrogate pair") from None
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(encodable)]
Whole = Annotated[int, BeforeValidator(whole_number)]
Real = Annotated[float, BeforeValidator(number)]


class PipelineCall(Settings):
    """What a pipeline is called with; :meth:`ConceptConductorPipeline.__call__` says what each means."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    prompt: Text
    concepts: tuple[InstanceOf[ConceptPrompt], ...] = ()
    layout: InstanceOf[Layout] | None = None
    negative_prompt: Text | None = None
    height: Whole | None = None
    width: Whole | None = None
    num_inference_steps: Annotated[Whole, Field(ge=1), BeforeValidator(or_default(SamplingSettings().steps))]
    guidance_scale: Annotated[Real, Field(ge=1)] | None = None
    num_images_per_prompt: Annotated[Whole, Field(ge=1), BeforeValidator(or_default(1))] = 1
    generator: torch.Generator | list[torch.Generator] | None = None
    latents: Tensor | None = None
    alignment: Annotated[Alignment | None, BeforeValidator(switched)]
    refinement: Annotated[Refinement | None, BeforeValidator(switched)]
    inversion: Annotated[Inversion, BeforeValidator(or_default(Inversion()))]
    injection: Annotated[Injection | None, BeforeValidator(switched)]
    placement: InstanceOf[Placement] | None = None
    paths_per_forward: Annotated[Whole, Field(ge=1)] | None = None
    output_type: Literal["pil", "np", "pt", "latent"] = "pil"
    callback_on_step_end: Callable[..., Any] | None = None
    callback_on_step_end_tensor_inputs: Annotated[tuple[str, ...], BeforeValidator(or_default(CALLBACK_TENSORS))]
    callback_on_inversion: Callable[[int, int], None] | None = None
    return_dict: bool = True
    prompt_2: Text | None = None
    negative_prompt_2: Text | None = None
    trace: InstanceOf[Trace] | None = None
    chunk_prompts: Annotated[bool, Field(strict=True)] = False

    @classmethod
    def of(cls, **arguments: Any) -> PipelineCall:
        """Validate a call's arguments.

        Raises:
            ConductorError: one does not fit; the sentence says what was expected and what came.
        """
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise ConductorError(explained(problem["loc"], problem, cls)) from error

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_prompt(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            raise ValueError(f"expected one text, but a list of {len(value)} came; call once for each prompt")
        return value

    @field_validator("concepts", mode="before")
    @classmethod
    def _concept_prompts(cls, value: Any) -> Any:
        if value is None:
            return ()
        entries = [value] if isinstance(value, ConceptPrompt) or not isinstance(value, Iterable) else list(value)
        for index, entry in enumerate(entries, 1):
            if not isinstance(entry, ConceptPrompt):
                raise ValueError(
                    f"expected ConceptPrompt(concept, replaces=[...]) or ConceptPrompt(concept, prompt=...) for each "
                    f"concept, but number {index} is a {type(entry).__name__}"
                )
        return tuple(entries)

    @field_validator("generator", mode="before")
    @classmethod
    def _generators(cls, value: Any) -> Any:
        if isinstance(value, bool) or value is None or isinstance(value, torch.Generator):
            if isinstance(value, bool):
                raise ValueError(f"expected a torch.Generator, a list of them or a seed, but it is {value}")
            return value
        if isinstance(value, int | np.integer):
            if not 0 <= value < 2**63:
                raise ValueError(f"a seed is a whole number from 0 to 2**63 - 1, but it is {value}")
            return torch.Generator("cpu").manual_seed(int(value))
        if isinstance(value, list | tuple) and all(isinstance(one, torch.Generator) for one in value):
            return list(value)
        raise ValueError(f"expected a torch.Generator, a list of them or a seed, but it is {value!r}")

    @field_validator("latents", mode="before")
    @classmethod
    def _latents_are_numbers(cls, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            came = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"expected a tensor of floating-point numbers (images, 4, h, w), but it is {came}")
        if not bool(value.isfinite().all()):
            raise ValueError("expected finite numbers, but some are NaN or infinite")
        return value.clone() if value.is_inference() else value

    @field_validator("callback_on_step_end_tensor_inputs")
    @classmethod
    def _known_tensors(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := sorted(set(value) - set(CALLBACK_TENSORS)):
            raise ValueError(f"callbacks can be given {', '.join(CALLBACK_TENSORS)}, but '{unknown[0]}' was asked for")
        return value

    @field_validator("trace", mode="before")
    @classmethod
    def _a_folder_is_a_trace(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a folder or a Trace(folder, ...), but it is {value}")
        return Trace(value) if isinstance(value, str | Path) else value

    def fitted(self, size: tuple[int, int]) -> PipelineCall:
        """Return the call with layout and placement in the proportions of a run of ``size`` (width, height).

        Raises:
            ConductorError: a place lies in what is cut off.
        """
        layout = None if self.layout is None else self.layout.fitted(size)
        placement = None if self.placement is None else self.placement.fitted(size)
        return self.model_copy(update={"layout": layout, "placement": placement})

    def replaced_latents(self, returned: Any, latents: Tensor) -> Tensor | None:
        """Return the latents that a step's callback gives in place of the step's own, None for these.

        Args:
            returned: by the callback.
            latents: the step's, ``(images, 4, h, w)``.

        Raises:
            ConductorError: it gives something else, latents of another shape, or that are not finite.
        """
        if returned is None:
            return None
        if not isinstance(returned, Mapping):
            raise ConductorError(
                "callback_on_step_end must return a dictionary such as {'latents': latents}, or None, but it returned "
                f"a {type(returned).__name__}"
            )
        changed = returned.get("latents")
        if changed is None or changed is latents:
            return changed
        if not isinstance(changed, Tensor) or changed.shape != latents.shape or not changed.is_floating_point():
            came = (
                f"{tuple(changed.shape)} of {changed.dtype}"
                if isinstance(changed, Tensor)
                else f"a {type(changed).__name__}"
            )
            raise ConductorError(
                f"the latents that callback_on_step_end returns must be a tensor of {tuple(latents.shape)} of "
                f"floating-point numbers, but they are {came}"
            )
        if not bool(changed.isfinite().all()):
            raise ConductorError(
                "the latents that callback_on_step_end returns must be finite, but some are NaN or infinite"
            )
        return changed.to(latents)
