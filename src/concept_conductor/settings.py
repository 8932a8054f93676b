"""Settings of the method: frozen, validated, and None where the model's or family's value holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

#: The run length in whose steps the paper states its windows.
PAPER_STEPS = 200

#: The paper's classifier-free guidance.
PAPER_GUIDANCE = 7.5

#: Low-rank updates wider than this are surely a mistake: no layer of the supported models has a higher rank.
MAX_RANK = 1280

#: How far beyond an object that was found a placement may change the image, as a share of its shorter side.
MARGIN = 0.1

#: Larger step sizes and weights of the loss do nothing but overflow.
LARGEST = 1e6

#: A third of the U-Net: encoder, middle, decoder.
Block = Literal["down", "mid", "up"]

Fraction = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]


def _for_each(value: Any) -> Any:
    """One number stands for all text encoders."""
    return (value,) if isinstance(value, int | float) else value


PerEncoder = Annotated[tuple[NotNegative, ...], BeforeValidator(_for_each), Field(min_length=1, max_length=2)]
"""A number for each text encoder, or one for all."""
RankPerEncoder = Annotated[tuple[Rank, ...], BeforeValidator(_for_each), Field(min_length=1, max_length=2)]


def step_at(fraction: float, steps: int) -> int:
    """Return the step that lies at ``fraction`` of a run of ``steps`` steps."""
    return math.floor(fraction * steps + 0.5)


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown names, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Alignment(Settings):
    """Layout alignment, Eq. 1 and 2.

    Attributes:
        step_size: λ, the gradient step on the latents (10 for SD1.5, 40 for SDXL).
        concept_weight: α, the concept paths' share in the loss (1).
        end: the last aligned step as a fraction of the run, inclusive (0.30: step 60 of 200).
        foreground_only: mean of the loss over the tokens inside any concept's mask, instead of over all (an ablation).
        gradient_checkpointing: compute activations again for the gradient instead of keeping them: much less memory,
            aligned steps take about a third longer, and images are the same to rounding.
    """

    step_size: Annotated[float, Field(ge=0, le=LARGEST)] | None = None
    concept_weight: Annotated[float, Field(ge=0, le=LARGEST)] | None = None
    end: Fraction | None = None
    foreground_only: bool = False
    gradient_checkpointing: bool = False

    def aligned_steps(self, steps: int) -> frozenset[int]:
        """Return the aligned steps of a run of ``steps`` steps; all fields must be filled."""
        assert self.end is not None
        return frozenset(range(min(steps, step_at(self.end, steps) + 1)))


class Injection(Settings):
    """Concept injection: by feature fusion, Eq. 4, or by noise fusion, Eq. 3.

    Attributes:
        self_attention: fuse the outputs of self-attention (structure).
        cross_attention: fuse the outputs of cross-attention (appearance).
        blocks: parts of the U-Net whose attention layers are fused (the decoder, ``up``, in the paper).
        noise: fuse what the paths predict, Eq. 3, instead of features: the naive way that the paper starts from.
        rectangular: inject each concept in its mask's bounding rectangle, refined or not, instead of in its shape (an
            ablation); where rectangles overlap the later concept wins.
        margin: how far around its mask a concept is injected as well, as a fraction of the image's shorter side, but
            never in another's mask; where margins meet, the later concept's (0: none, as in the paper). Worth it where
            latents are so few that an outline is a guess.
    """

    self_attention: bool = True
    cross_attention: bool = True
    blocks: Annotated[tuple[Block, ...], Field(min_length=1, max_length=3)] | None = None
    noise: bool = False
    rectangular: bool = False
    margin: Fraction | None = None

    def fuses(self, block: Block, *, cross_attention: bool) -> bool:
        """Return whether a layer of this block and kind is fused; ``blocks`` must be filled where any is."""
        if self.noise or not (self.cross_attention if cross_attention else self.self_attention):
            return False
        assert self.blocks is not None
        return block in self.blocks


class Refinement(Settings):
    """Mask refinement, Algorithm 1.

    Attributes:
        start: first refined step as a fraction of the run (0.25: step 50 of 200).
        end: last refined step, inclusive (0.40: step 80 of 200).
        every: distance of refinements, in steps of a 200-step run (5).
        overlap_threshold: below this IoU a mask's bounding rectangle takes the cluster's place (0 for SD1.5).
        keep_outline: where a token of the mask layer stays what it was, its latents keep theirs, instead of all taking
            the token's (False, as published). Worth it where tokens are so few that they would blunt a good mask.
        restarts: K-Means runs per K, the best of which counts.
        seed: K-Means draws from its own stream, seeded by this, the path, K and the step.
    """

    start: Fraction | None = None
    end: Fraction | None = None
    every: Annotated[int, Field(ge=1, le=PAPER_STEPS)] | None = None
    overlap_threshold: Fraction | None = None
    keep_outline: bool | None = None
    restarts: Annotated[int, Field(ge=1, le=1000)] = 10
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _starts_before_it_ends(self) -> Refinement:
        if self.start is not None and self.end is not None and self.start > self.end:
            raise ValueError(f"refinement starts at {self.start} but ends at {self.end}; start must not exceed end")
        return self

    def refined_steps(self, steps: int) -> frozenset[int]:
        """Return the steps of a run of ``steps`` steps after which masks are refined; all fields must be filled."""
        assert self.start is not None and self.end is not None and self.every is not None
        first, last = round(PAPER_STEPS * self.start), round(PAPER_STEPS * self.end)
        return frozenset(step_at(k / PAPER_STEPS, steps) for k in range(first, last + 1, self.every))


class Inversion(Settings):
    """DDIM inversion of the layout reference.

    Attributes:
        steps: number of inversion steps; they must visit every timestep that sampling needs (999 always does).
        cache: keep what it computes in the user's cache folder (True), in a folder, or not at all (False).
    """

    steps: Annotated[int, Field(ge=1)] = 999
    cache: bool | Path = True


class LearningRates(Settings):
    """Learning rates of a training's first step; they fall linearly to zero.

    Attributes:
        embeddings: of the placeholders' vectors, one for each text encoder or one for all.
        text_encoder: of the low-rank weights of the text encoders, likewise.
        unet: of the U-Net's low-rank weights.
    """

    embeddings: PerEncoder | None = None
    text_encoder: PerEncoder | None = None
    unet: NotNegative | None = None


class Ranks(Settings):
    """Ranks of a concept's low-rank weights.

    Attributes:
        text_encoder: one for each text encoder or one for all.
        unet: of the U-Net.
    """

    text_encoder: RankPerEncoder | None = None
    unet: Rank | None = None


class SamplingSettings(Settings):
    """The settings of one run; made by the pipeline, every field filled.

    Attributes:
        steps: T, the number of denoising steps.
        guidance_scale: classifier-free guidance, 7.5 in the paper; 1 switches it off.
        alignment, injection, refinement: the method's parts, None where switched off.
        inversion: how the layout reference is inverted.
        paths_per_forward: at most this many paths in one forward, None for all.
    """

    steps: Annotated[int, Field(ge=1)] = 200
    guidance_scale: Annotated[float, Field(ge=1)] = PAPER_GUIDANCE
    alignment: Alignment | None = Alignment()
    injection: Injection | None = Injection()
    refinement: Refinement | None = Refinement()
    inversion: Inversion = Inversion()
    paths_per_forward: Annotated[int, Field(ge=1)] | None = None

    @property
    def aligned_steps(self) -> frozenset[int]:
        """The indices of the steps that are aligned."""
        return frozenset() if self.alignment is None else self.alignment.aligned_steps(self.steps)

    @property
    def refined_steps(self) -> frozenset[int]:
        """The indices of the steps after which masks are refined."""
        return frozenset() if self.refinement is None else self.refinement.refined_steps(self.steps)
