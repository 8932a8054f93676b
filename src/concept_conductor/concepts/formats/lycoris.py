"""LyCORIS's other kinds of updates: each is a low-rank one after all, and is read as that, exactly.

LoHa is the product (A1 B1) * (A2 B2), number by number: its halves are the products of each column of A1 with each of
A2, and of the rows of B1 and B2. LoKr is the Kronecker product of W1 and W2: its halves are those of the factors' own
halves. A Tucker core belongs into a lower half. Of a full difference one half is the identity; likewise where a product
would be of a higher rank than its layer. (Yeh et al., "Navigating Text-To-Image Customization", ICLR 2024, Section 3;
LoHa: Hyeon-Woo et al., "FedPara", ICLR 2022.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.formats import validation
from concept_conductor.errors import ConceptFileError

LOHA, LOKR = "LoHa (LyCORIS)", "LoKr (LyCORIS)"
TUCKER, FULL = "LoCon with a Tucker core", "full difference (LyCORIS)"

#: Kind -> a part that only it has, and all parts that there may be.
PARTS = {
    LOHA: (r"hada_\w+", ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")),
    LOKR: (r"lokr_\w+", ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")),
    TUCKER: (r"lora_mid\.weight", ("lora_down.weight", "lora_mid.weight", "lora_up.weight")),
    FULL: (r"diff", ("diff",)),
}
ALPHA = ".alpha"
#: What one concept may unfold to: 4 GiB in fp32.
MAX_NUMBERS = 1 << 30

#: Layer, and the rank of its factors (None where they are whole) -> what the update is multiplied by.
Scale = Callable[[str, int | None], float]


class MisfitError(ValueError):
    """Parts of a layer that do not belong to each other."""


def unfolded(
    path: Path, content: Mapping[str, Any], halves: tuple[str, str], layers: re.Pattern[str], scale: Scale | None = None
) -> dict[str, Any]:
    """The content with the parts of each such layer replaced by the two halves of the same low-rank update.

    Args:
        path: of the file, for messages.
        content: name -> tensor.
        halves: what the names of a lower and an upper half end with.
        layers: how the names of layers start.
        scale: of a layer; None for the layer's own ``alpha`` over its rank.

    Raises:
        ConceptFileError: a part is missing or does not fit the others, or the update is absurdly large.
    """
    rest, numbers = dict(content), 0
    for layer, kind in _layers(content).items():
        what = f"{path} has the layer '{layer}' of the kind '{kind}', which is not plain low rank,"
        if not layers.match(layer):
            raise ConceptFileError(f"{what} but no U-Net or text encoder has such a layer")
        parts = {}
        for name in PARTS[kind][1]:
            if (key := f"{layer}.{name}") in rest:
                parts[name] = validation.numbers(path, key, rest.pop(key), (2, 4), f"a part of a {kind}").float()
        try:
            pair, rank = _READERS[kind](parts)
            numbers += pair.down.numel() + pair.up.numel()
            if numbers > MAX_NUMBERS:
                raise MisfitError("which is too large together with those before it")
            factor = scale(layer, rank) if scale is not None else _alpha(rest, layer, kind, rank)
        except KeyError as error:
            raise ConceptFileError(f"{what} without its part {error}") from error
        except MisfitError as error:
            shapes = ", ".join(f"{name} {'x'.join(map(str, part.shape))}" for name, part in parts.items())
            raise ConceptFileError(f"{what} {error} ({shapes})") from error
        rest[layer + halves[0]], rest[layer + halves[1]] = pair.down, pair.up * factor
    return rest


def _layers(content: Mapping[str, Any]) -> dict[str, str]:
    """Layer -> kind, of those that are of one of these kinds."""
    found: dict[str, str] = {}
    for kind, (part, _) in PARTS.items():
        matches = (re.fullmatch(rf"(.+)\.{part}", key) for key in content)
        found |= {match[1]: kind for match in matches if match}
    return found


def _alpha(rest: dict[str, Any], layer: str, kind: str, rank: int | None) -> float:
    """The layer's own scale: alpha over rank, taken out of ``rest``; 1 where both of LoKr's factors are whole."""
    alpha = rest.pop(layer + ALPHA, None)
    if alpha is None:
        return 1.0
    if kind == FULL:
        raise MisfitError("with an alpha, which none of that kind has")
    if not isinstance(alpha, Tensor) or alpha.numel() != 1 or not alpha.isfinite().all():
        raise MisfitError("with an alpha that is not one finite number")
    return 1.0 if rank is None else float(alpha) / rank


def _read_loha(parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    one, two = (_factor(parts, f"hada_w{number}", f"hada_t{number}") for number in (1, 2))
    return hadamard(one, two), parts["hada_w1_b"].shape[0]


def _read_lokr(parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    one, two = (
        whole(parts[name]) if name in parts else _factor(parts, name, f"lokr_t{name[-1]}")
        for name in ("lokr_w1", "lokr_w2")
    )
    rank = next((parts[name].shape[0] for name in ("lokr_w1_b", "lokr_w2_b") if name in parts), None)
    return kronecker(one, two), rank


def _read_tucker(parts: Mapping[str, Tensor]) -> tuple[LowRank, int | None]:
    up, down = parts["lora_up.weight"].flatten(1), parts["lora_down.weight"].flatten(1)
    core = parts["lora_mid.weight"]
    pair = _factor({"w_a": up.T, "w_b": down, "core": core}, "w", "core")
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
    """A factor's own two halves; the core, where there is one, has ``(rank, rank, kernel height, kernel width)``."""
    a, b = parts[f"{name}_a"], parts[f"{name}_b"]
    _require(a.ndim == b.ndim == 2)
    if core not in parts:
        _require(a.shape[1] == b.shape[0])
        return LowRank(b, a)
    middle = parts[core]
    _require(middle.ndim == 4 and middle.shape[:2] == (a.shape[0], b.shape[0]))
    return LowRank(torch.einsum("ijkl,jr->irkl", middle, b), a.T)


def whole(weight: Tensor) -> LowRank:
    """A whole difference ``(out, in)`` or ``(out, in, kernel height, kernel width)``; one half is the identity."""
    out, width = weight.shape[:2]
    _is_narrow(out, out, weight.shape[1:])
    if weight.ndim == 2 and width < out:
        return LowRank(torch.eye(width), weight)
    return LowRank(weight, torch.eye(out))


def hadamard(one: LowRank, two: LowRank) -> LowRank:
    """The update that is the product of two, number by number."""
    _require(one.up.shape[0] == two.up.shape[0] and one.down.shape[1:] == two.down.shape[1:])
    if not _is_narrow(one.rank * two.rank, one.up.shape[0], one.down.shape[1:]):
        return whole(dense(one) * dense(two))
    up = torch.einsum("or,os->ors", one.up, two.up).flatten(1)
    down = torch.einsum("r...,s...->rs...", one.down, two.down).flatten(0, 1)
    return LowRank(down, up)


def kronecker(one: LowRank, two: LowRank) -> LowRank:
    """The update that is the Kronecker product of two; only the second may have a kernel."""
    _require(one.down.ndim == 2)
    width, *kernel = two.down.shape[1:]
    shape = torch.Size((one.down.shape[1] * width, *kernel))
    if not _is_narrow(one.rank * two.rank, one.up.shape[0] * two.up.shape[0], shape):
        return whole(_kron(dense(one), dense(two)))
    return LowRank(_kron(one.down, two.down), _kron(one.up, two.up))


def dense(update: LowRank) -> Tensor:
    """The whole difference that an update makes, ``(out, in)`` or with a kernel."""
    return torch.einsum("or,r...->o...", update.up, update.down)


def _kron(matrix: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product over the first two dimensions."""
    return torch.kron(matrix[(..., *(None,) * (other.ndim - 2))], other.contiguous())


def _is_narrow(rank: int, out: int, shape: torch.Size) -> bool:
    """Whether two halves of this rank are less than the whole difference.

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
