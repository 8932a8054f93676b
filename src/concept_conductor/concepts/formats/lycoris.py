"""LyCORIS's other kinds of updates: each is a low-rank one after all, and is read as that, exactly.

LoHa is the product (A1 B1) * (A2 B2), number by number: its halves are the products of each column of A1 with each of
A2, and of the rows of B1 and B2. LoKr is the Kronecker product of W1 and W2: its halves are those of the factors' own
halves. A Tucker core belongs into a lower half. Of a full difference one half is the identity; likewise where a product
would be of a higher rank than its layer. (Yeh et al., "Navigating Text-To-Image Customization", ICLR 2024, Section 3;
LoHa: Hyeon-Woo et al., "FedPara", ICLR 2022.)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.formats.lora_keys import DOWN, UP

LOHA, LOKR = "LoHa (LyCORIS)", "LoKr (LyCORIS)"
TUCKER, FULL = "LoCon with a Tucker core", "full difference (LyCORIS)"
MID = "lora_mid.weight"

#: Kind -> how a part starts that only it has, and all parts that there may be.
PARTS = {
    LOHA: ("hada_", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")),
    LOKR: ("lokr_", ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")),
    TUCKER: (MID, (DOWN, MID, UP)),
    FULL: ("diff", ("diff",)),
}
#: What one concept may unfold to: 4 GiB in fp32.
MAX_NUMBERS = 1 << 30


class MisfitError(ValueError):
    """Parts of a layer that do not belong to each other."""


def kind_of(parts: Collection[str]) -> str | None:
    """Return the kind of update that has such ``parts``; None for plain low rank."""
    return next((kind for kind, (start, _) in PARTS.items() if any(part.startswith(start) for part in parts)), None)


def unfold(kind: str, parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    """Return the low-rank update that a layer's ``parts`` mean, and the rank of its factors (None for whole ones).

    Args:
        kind: of the update, as :func:`kind_of` tells it.
        parts: fp32 tensors of two or four dimensions.

    Raises:
        KeyError: a part is missing.
        MisfitError: parts do not fit each other, or mean a layer larger than any model's.
    """
    return _READERS[kind](parts)


def _read_loha(parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    one, two = (_factor(parts, f"hada_w{number}", f"hada_t{number}") for number in (1, 2))
    return hadamard(one, two), parts["hada_w1_b"].shape[0]


def _read_lokr(parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        core = f"lokr_t{name[-1]}"
        if name in parts:
            _require(parts.keys().isdisjoint((f"{name}_a", f"{name}_b", core)))
            factors.append(whole(parts[name]))
        else:
            factors.append(_factor(parts, name, core))
    one, two = factors
    rank = next((parts[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in parts), None)
    return kronecker(one, two), rank


def _read_tucker(parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    up, down = parts[UP].flatten(1), parts[DOWN].flatten(1)
    pair = _factor({"w_a": up.T, "w_b": down, "core": parts[MID]}, "w", "core")
    return pair, len(down)


def _read_full(parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    return whole(parts["diff"]), None


_READERS: dict[str, Callable[[Mapping[str, Tensor]], tuple[LowRank, int | None]]] = {
    LOHA: _read_loha,
    LOKR: _read_lokr,
    TUCKER: _read_tucker,
    FULL: _read_full,
}


def _factor(parts: Mapping[str, Tensor], name: str, core: str) -> LowRank:
    """Return a factor's two halves; a core has ``(rank, rank, kernel height, kernel width)``."""
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    _require(a.ndim == b.ndim == 2)
    if core not in parts:
        _require(a.shape[1] == b.shape[0])
        return LowRank(b, a)
    middle = parts[core]
    _require(middle.ndim == 4 and middle.shape[:2] == (a.shape[0], b.shape[0]))
    return LowRank(torch.einsum("ijkl,jr->irkl", middle, b), a.T)


def whole(weight: Tensor) -> LowRank:
    """Return the update of a whole difference, ``(out, in)`` or with a kernel; one half is the identity."""
    out, width = weight.shape[:2]
    _is_narrow(out, out, weight.shape[1:])
    if weight.ndim == 2 and width < out:
        return LowRank(torch.eye(width), weight)
    return LowRank(weight, torch.eye(out))


def hadamard(one: LowRank, two: LowRank) -> LowRank:
    """Return the update that is the product of two, number by number."""
    _require(one.up.shape[0] == two.up.shape[0] and one.down.shape[1:] == two.down.shape[1:])
    if not _is_narrow(one.rank * two.rank, one.up.shape[0], one.down.shape[1:]):
        return whole(dense(one) * dense(two))
    up = torch.einsum("or,os->ors", one.up, two.up).flatten(1)
    down = torch.einsum("r...,s...->rs...", one.down, two.down).flatten(0, 1)
    return LowRank(down, up)


def kronecker(one: LowRank, two: LowRank) -> LowRank:
    """Return the update that is the Kronecker product of two; only the second may have a kernel."""
    _require(one.down.ndim == 2)
    width, *kernel = two.down.shape[1:]
    shape = torch.Size((one.down.shape[1] * width, *kernel))
    if not _is_narrow(one.rank * two.rank, one.up.shape[0] * two.up.shape[0], shape):
        return whole(_kron(dense(one), dense(two)))
    return LowRank(_kron(one.down, two.down), _kron(one.up, two.up))


def dense(update: LowRank) -> Tensor:
    """Return the whole difference that an update makes, ``(out, in)`` or with a kernel."""
    return torch.einsum("or,r...->o...", update.up, update.down)


def _kron(matrix: Tensor, other: Tensor) -> Tensor:
    """Return the Kronecker product over the first two dimensions."""
    return torch.kron(matrix[(..., *(None,) * (other.ndim - 2))], other.contiguous())


def _is_narrow(rank: int, out: int, shape: torch.Size) -> bool:
    """Return whether two halves of this rank are less than the whole difference.

    Args:
        rank: of the halves.
        out: numbers that the layer gives.
        shape: how many it takes, and its kernel.

    Raises:
        MisfitError: both are more than any model has.
    """
    full = out if len(shape) > 1 else min(out, *shape)
    if min(rank, full) * (out + shape.numel()) > MAX_NUMBERS:
        raise MisfitError("which is too large for any model")
    return rank < full


def _require(fits: bool) -> None:
    if not fits:
        raise MisfitError("with parts whose shapes do not fit each other")
