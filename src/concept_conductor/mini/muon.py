"""Muon (Jordan et al., 2024): momentum whose matrices are orthogonalised before they are applied.

Convolution kernels count as matrices (out, in x height x width). Updates are scaled to the size of AdamW's
(Liu et al., 2025, "Muon is scalable for LLM training"), so that learning rates are of AdamW's order.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Muon for parameters of two and more dimensions."""

    def __init__(self, params, lr: float = 2e-3, momentum: float = 0.95, weight_decay: float = 0.01):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients that are there; there is no closure."""
        for group in self.param_groups:
            shapes: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"]).flatten(1).bfloat16()  # Nesterov
                shapes[tuple(update.shape)].append((p, update))
            for (rows, columns), entries in shapes.items():
                updates = orthogonalise(torch.stack([update for _, update in entries]))
                size = 0.2 * max(rows, columns) ** 0.5
                for (p, _), update in zip(entries, updates):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.view(p.shape), alpha=-group["lr"] * size)


def orthogonalise(matrices: Tensor) -> Tensor:
    """`(n, rows, columns)` -> nearly the closest semi-orthogonal matrices, by five Newton-Schulz steps in bfloat16."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalise(matrices.mT).mT
    x = matrices.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.baddbmm(x, polynomial, x, beta=3.4445)
    return x.to(matrices.dtype)
