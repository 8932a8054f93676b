"""Path-wise low-rank layers: one weight in memory, every row with its own path's update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from concept_conductor.concepts.data import FullWeight, LowRank, Update
from concept_conductor.denoiser.convolution import PathwiseConv2d
from concept_conductor.denoiser.paths import PathRows
from concept_conductor.denoiser.text_cache import CachedProjection
from concept_conductor.errors import BusyError, ConceptFileError

Layer = nn.Linear | nn.Conv2d


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
        x_paths = x.reshape(count, -1, x.shape[-1])[here]  # (paths, rows * tokens, in)
        y_paths = y.view(count, -1, y.shape[-1])[here]
        # in place: a linear layer's backward does not need its output. Autocast leaves in-place operations alone, so
        # that under it ``up`` has to be brought to the layer's precision here
        y_paths.baddbmm_(torch.bmm(x_paths, self.down[start:stop]), self.up[start:stop].to(y))
        return y


def unwrap(module: nn.Module) -> nn.Module:
    """Return a layer itself where others stand in its place."""
    while isinstance(module, PathwiseLinear | PathwiseConv2d | CachedProjection):
        module = module.base
    return module


def find_layer(model: nn.Module, name: str) -> str:
    """Return the name under which ``model`` has the layer ``name``.

    transformers 5 dropped the inner ``text_model`` of CLIPTextModel but not of its sibling with a projection.

    Raises:
        ConceptFileError: there is no such linear layer or convolution.
    """
    for candidate in (name, f"text_model.{name}", name.removeprefix("text_model.")):
        try:
            if isinstance(unwrap(model.get_submodule(candidate)), Layer):
                return candidate
        except AttributeError:
            continue
    raise ConceptFileError(
        f"weights for the layer '{name}' match no linear layer or convolution of this {type(model).__name__}; "
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


class ScaledUpdates(Mapping[str, Update]):
    """Updates with the concept's ``weight`` folded in, computed in fp32 when one is asked for.

    None is kept: in a run the layers have their own copies.
    """

    def __init__(self, updates: Mapping[str, Update], weight: float) -> None:
        self.updates = updates
        self.weight = weight

    def __getitem__(self, name: str) -> Update:
        return self.updates[name].scaled(self.weight)

    def __contains__(self, name: object) -> bool:
        return name in self.updates  # Mapping's own would scale one to see

    def __iter__(self) -> Iterator[str]:
        return iter(self.updates)

    def __len__(self) -> int:
        return len(self.updates)


@contextmanager
def pathwise(model: nn.Module, updates: Sequence[Mapping[str, Update]], rows: PathRows) -> Iterator[None]:
    """Inside this context ``model``'s layers add each path's update to that path's rows.

    Args:
        model: a U-Net or text encoder.
        updates: for every path, layer name -> update (empty for the base path).
        rows: which paths the rows of a forward belong to.

    Raises:
        ConceptFileError: an update names a layer that the model lacks or has in another shape; the model
            is left untouched.
    """
    by_layer: dict[str, dict[int, str]] = {}
    for path, layers in enumerate(updates):
        for given in layers:
            by_layer.setdefault(find_layer(model, given), {})[path] = given

    adapted: list[tuple[nn.Module, str, PathwiseLinear | PathwiseConv2d]] = []
    for name, adapts in by_layer.items():
        owner_name, _, child = name.rpartition(".")
        # one layer's at a time: what is not kept by whoever gave it is gone when the next is made
        stack = [layers[adapts[path]] if path in adapts else None for path, layers in enumerate(updates)]
        changed = pathwise_layer(name, model.get_submodule(name), stack, rows)
        adapted.append((model.get_submodule(owner_name), child, changed))

    try:
        for owner, child, layer in adapted:
            setattr(owner, child, layer)
        yield
    finally:
        for owner, child, layer in adapted:
            setattr(owner, child, layer.base)


def pathwise_layer(
    name: str, base: nn.Module, stack: Sequence[Update | None], rows: PathRows
) -> PathwiseLinear | PathwiseConv2d:
    """Return the layer ``name`` with each path's update (None for none) beside it."""
    if not isinstance(base, Layer):
        raise BusyError(f"the layer '{name}' is adapted already; finish or close the run that did it first")
    updates = [None if update is None else as_low_rank(name, update, base) for update in stack]
    if isinstance(base, nn.Conv2d):
        return PathwiseConv2d(base, updates, rows)
    return PathwiseLinear(base, *stack_updates(updates, base), [update is not None for update in updates], rows)


def check_fit(model: nn.Module, updates: Mapping[str, Update]) -> None:
    """Check that ``model`` has a layer of the right shape for every update; nothing is computed.

    Raises:
        ConceptFileError: it lacks one, or has it in another shape.
    """
    for name, update in updates.items():
        base = unwrap(model.get_submodule(find_layer(model, name)))
        assert isinstance(base, Layer)
        match_shape(name, update, base)


def as_low_rank(name: str, update: Update, base: Layer) -> LowRank:
    """Return an update as a low-rank one in its layer's own shape.

    Raises:
        ConceptFileError: it is made for a layer of another shape.
    """
    update = match_shape(name, update, base)
    return update.low_rank(base.weight) if isinstance(update, FullWeight) else update


def match_shape(name: str, update: Update, base: Layer) -> Update:
    """Return an update in its layer's own shape.

    Some writers give a 1x1 kernel to a linear layer, or none to a 1x1 convolution: both mean the same numbers.

    Raises:
        ConceptFileError: it is made for a layer of another shape.
    """
    if isinstance(update, FullWeight):
        came: tuple[int, ...] = tuple(update.weight.shape)
    else:
        down = update.down
        if isinstance(base, nn.Conv2d) and down.ndim == 2:
            update = update._replace(down=down[..., None, None])
        elif isinstance(base, nn.Linear) and down.shape[2:] == (1, 1):
            update = update._replace(down=down[..., 0, 0])
        came = (update.up.shape[0], *update.down.shape[1:])
    if came != tuple(base.weight.shape):
        raise ConceptFileError(
            f"weights of '{name}' are made for a layer of shape {'x'.join(map(str, came))} but the model's is "
            f"{'x'.join(map(str, base.weight.shape))}; use a concept trained on this family of models"
        )
    return update
