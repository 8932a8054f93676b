"""The methods that a table compares: the full one, its ablations, and other ways.

A package adds a method by calling `register_method`, or by an entry point of the group `concept_conductor.methods`
that names a `Method`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from concept_conductor.evaluation.registry import Registry
from concept_conductor.settings import Alignment, Injection

if TYPE_CHECKING:
    from concept_conductor.recipes.runner import RecipeRunner

Sampler = Callable[["RecipeRunner", int], Tensor]
"""Makes of an opened recipe and a seed an image ``(3, H, W)`` in 0..1."""


@dataclass(frozen=True)
class Method:
    """A row of a table.

    Attributes:
        name: what it is asked for by.
        title: for people.
        changes: fields of a recipe that it changes.
        sampler: makes the image where the method is another than this project's; None for this project's.
    """

    name: str
    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    sampler: Sampler | None = None


def merged_models(runner: RecipeRunner, seed: int) -> Tensor:
    """Make the recipe's image by one model that all concepts are merged into: the same noise, no layout."""
    from concept_conductor.baselines.merged import sample_merged

    recipe, backbone = runner.recipe, runner.pipe.backbone
    assert recipe.steps is not None and recipe.guidance_scale is not None  # filled when it was opened
    assert recipe.width is not None and recipe.height is not None
    side = backbone.vae_factor
    noise = torch.randn(
        1, 4, recipe.height // side, recipe.width // side, generator=torch.Generator("cpu").manual_seed(seed)
    )
    return sample_merged(
        runner.pipe, recipe.prompt, runner.concepts, noise, recipe.steps, recipe.guidance_scale,
        recipe.negative_prompt,
    )[0]  # fmt: skip


METHODS = Registry(Method, "method", "concept_conductor.methods")
register_method, find_methods = METHODS.register, METHODS.find

for _method in (
    Method("full", "full method"),
    Method("no-alignment", "without alignment", {"alignment": None}),
    Method("no-self-attention", "without self-attention fusion", {"injection": Injection(self_attention=False)}),
    Method("no-cross-attention", "without cross-attention fusion", {"injection": Injection(cross_attention=False)}),
    Method("no-refinement", "without refinement", {"refinement": None}),
    Method("no-injection", "without injection", {"injection": None}),
    Method("noise-fusion", "noise fusion instead of feature fusion", {"injection": Injection(noise=True)}),
    Method("rectangles", "rectangular masks", {"injection": Injection(rectangular=True)}),
    Method("foreground", "alignment of the foreground only", {"alignment": Alignment(foreground_only=True)}),
    Method("merged", "LoRAs merged into one model", sampler=merged_models),
):
    register_method(_method)
