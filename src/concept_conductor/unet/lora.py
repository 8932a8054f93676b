"""Path-wise low-rank layers: one weight in memory, every row with its own path's update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from concept_conductor.concepts.concept import LowRank
from concept_conductor.errors import ConceptFileError


class PathRows(Protocol):
    """Tells a layer which paths the rows of the present forward belong to, in equal shares."""

    @property
    def present(self) -> slice: ...


class AllRows:
    """Every row belongs to the one and only path."""

    present = slice(0, 1)


class PathwiseLinear(nn.Module):
    """``base(x) + x @ down[path] @ up[path]`` for the rows of each path; the base path's update is zero.

    Args:
        base: the layer as it was; its weight is shared by all paths.
        down: ``(paths, in, rank)``, ranks padded with zeros to the widest. Parameters, so that they move with
            the model when it is offloaded.
        up: ``(paths, rank, out)``, scales and the concept's weight folded in.
        adapted: for each path, whether it has an update here at all.
        rows: tells which paths the rows belong to (path-major).
    """

    def __init__(
        self, base: nn.Linear, down: nn.Parameter, up: nn.Parameter, adapted: Sequence[bool], rows: PathRows
    ) -> None:
        super().__init__()
        self.base = base
        self.down = down
        self.up = up
        self.rows = rows
        adapted_paths = [path for path, has_update in enumerate(adapted) if has_update]
        self.first, self.last = min(adapted_paths), max(adapted_paths)

    def forward(self, x: Tensor) -> Tensor:
        present = self.rows.present
        y: Tensor = self.base(x)
        start, stop = max(self.first, present.start), min(self.last + 1, present.stop)
        if start >= stop:
            return y
        here = slice(start - present.start, stop - present.start)
        count = present.stop - present.start
        x_paths = x.unflatten(0, (count, -1))[here].flatten(1, -2)  # (paths, rows * tokens, in)
        y_paths = y.unflatten(0, (count, -1))[here].view(stop - start, -1, y.shape[-1])
        # in place: a linear layer's backward does not need its output. Autocast leaves in-place operations alone, so
        # that under it ``up`` has to be brought to the layer's precision here
        y_paths.baddbmm_(torch.bmm(x_paths, self.down[start:stop]), self.up[start:stop].to(y))
        return y


def find_layer(model: nn.Module, name: str) -> str:
    """The name under which ``model`` has the layer ``name``.

    transformers 5 dropped the inner ``text_model`` of CLIPTextModel but not of its sibling with a projection.

    Raises:
        ConceptFileError: there is no such linear layer.
    """
    for candidate in (name, f"text_model.{name}", name.removeprefix("text_model.")):
        try:
            if isinstance(model.get_submodule(candidate), nn.Linear):
                return candidate
        except AttributeError:
            continue
    raise ConceptFileError(
        f"low-rank weights for the layer '{name}' match no linear layer of this {type(model).__name__}; "
        "is the concept made for another family of models?"
    )


def stack_updates(updates: Sequence[LowRank | None], base: nn.Linear) -> tuple[nn.Parameter, nn.Parameter]:
    """Stack the paths' updates of one layer, ``None`` meaning zero.

    Returns:
        ``down (paths, in, rank)`` and ``up (paths, rank, out)`` on the layer's device, in its dtype.
    """
    rank = max(update.rank for update in updates if update is not None)
    down = base.weight.new_zeros(len(updates), base.in_features, rank)
    up = base.weight.new_zeros(len(updates), rank, base.out_features)
    for path, update in enumerate(updates):
        if update is not None:
            down[path, :, : update.rank] = update.down.T.to(down)
            up[path, : update.rank] = update.up.T.to(up)
    return nn.Parameter(down, requires_grad=False), nn.Parameter(up, requires_grad=False)


def scaled(updates: Mapping[str, LowRank], weight: float) -> dict[str, LowRank]:
    """The same updates with ``weight`` folded into ``up``, computed in fp32."""
    return {name: LowRank(update.down, update.up.float() * weight) for name, update in updates.items()}


@contextmanager
def pathwise(model: nn.Module, updates: Sequence[Mapping[str, LowRank]], rows: PathRows) -> Iterator[None]:
    """Inside this context ``model``'s linear layers add each path's low-rank update to that path's rows.

    Args:
        model: a U-Net or text encoder.
        updates: for every path, layer name -> update (empty for the base path).
        rows: which paths the rows of a forward belong to.

    Raises:
        ConceptFileError: an update names a layer that the model lacks or has in another shape; the model
            is left untouched.
    """
    by_layer: dict[str, list[LowRank | None]] = {}
    for path, layers in enumerate(updates):
        for name, update in layers.items():
            by_layer.setdefault(find_layer(model, name), [None] * len(updates))[path] = update

    adapted: list[tuple[nn.Module, str, PathwiseLinear]] = []
    for name, stack in by_layer.items():
        base = model.get_submodule(name)
        assert isinstance(base, nn.Linear)
        for update in filter(None, stack):
            check_shape(name, update, base)
        parent, _, child = name.rpartition(".")
        layer = PathwiseLinear(base, *stack_updates(stack, base), [update is not None for update in stack], rows)
        adapted.append((model.get_submodule(parent), child, layer))

    try:
        for owner, child, layer in adapted:
            setattr(owner, child, layer)
        yield
    finally:
        for owner, child, layer in adapted:
            setattr(owner, child, layer.base)


def check_shape(name: str, update: LowRank, base: nn.Linear) -> None:
    """Refuse an update that does not fit its layer."""
    came = (update.up.shape[0], update.down.shape[1])
    if came != (base.out_features, base.in_features) or update.up.shape[1] != update.down.shape[0]:
        raise ConceptFileError(
            f"low-rank weights of '{name}' are made for a layer of shape {came[0]}x{came[1]} but the model's is "
            f"{base.out_features}x{base.in_features}; use a concept trained on this family of models"
        )
