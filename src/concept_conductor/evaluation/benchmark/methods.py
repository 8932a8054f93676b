"""The methods that a table compares: the full one, its ablations, and other ways.

A package adds a method by calling `register_method`, or by an entry point of the group `concept_conductor.methods`
that names a `Method`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from concept_conductor.errors import ConductorError
from concept_conductor.settings import Alignment, Injection

if TYPE_CHECKING:
    from concept_conductor.recipes.runner import RecipeRunner

GROUP = "concept_conductor.methods"

Sampler = Callable[["RecipeRunner", int], Tensor]
"""Of an opened recipe and a seed, an image ``(3, H, W)`` in 0..1."""


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
    """The recipe's image by one model that all concepts are merged into, from the same noise, without its layout."""
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


METHODS: dict[str, Method] = {}


def register_method(method: Method) -> None:
    """Make a method known.

    Raises:
        ConductorError: another one has its name.
    """
    if METHODS.setdefault(method.name, method) != method:
        raise ConductorError(f"a method '{method.name}' is known already; expected another name")


def find_methods(names: Sequence[str]) -> list[Method]:
    """The methods of these names; those of installed packages are looked for where a name is not known yet.

    Raises:
        ConductorError: a name is not known, or a package's entry point is no :class:`Method`.
    """
    if not set(names) <= set(METHODS):
        for entry in entry_points(group=GROUP):
            method = entry.load()
            if not isinstance(method, Method):
                raise ConductorError(
                    f"the entry point '{entry.name}' of {GROUP} gives a {type(method).__name__}; expected a Method"
                )
            register_method(method)
    if unknown := [name for name in names if name not in METHODS]:
        raise ConductorError(f"there is no method '{unknown[0]}'; expected some of {', '.join(METHODS)}")
    return [METHODS[name] for name in dict.fromkeys(names)]


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
