"""Path-wise low-rank convolutions (LoCon): the down half has the layer's kernel, the up half is 1x1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F

from concept_conductor.concepts.data import LowRank

if TYPE_CHECKING:
    from concept_conductor.denoiser.paths import PathRows


class PathwiseConv2d(nn.Module):
    """``base(x) + up[path] * (down[path] * x)`` for the rows of each path; the base path's update is zero.

    Args:
        base: the layer as it was; its weight is shared by all paths.
        updates: each path's update, ``down (rank, in, kernel height, kernel width)`` and ``up (out, rank)``;
            None for none.
        rows: tells which paths the rows belong to (path-major).
    """

    def __init__(self, base: nn.Conv2d, updates: Sequence[LowRank | None], rows: PathRows) -> None:
        super().__init__()
        self.base = base
        self.rows = rows
        adapted = {str(path): update for path, update in enumerate(updates) if update is not None}

        def parameters(halves: dict[str, Tensor]) -> nn.ParameterDict:
            """Make parameters, so that they move with the model when it is offloaded."""
            return nn.ParameterDict(
                {path: nn.Parameter(half.to(base.weight), requires_grad=False) for path, half in halves.items()}
            )

        # by path and unpadded: each runs alone
        self.down = parameters({path: update.down for path, update in adapted.items()})
        self.up = parameters({path: update.up[..., None, None] for path, update in adapted.items()})

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(rows, in, h, w)`` to ``(rows, out, h', w')``, in either memory format."""
        y: Tensor = self.base(x)
        present, base = self.rows.present, self.base
        count = present.stop - present.start
        x_paths, y_paths = x.unflatten(0, (count, -1)), y.unflatten(0, (count, -1))
        for place, path in enumerate(range(present.start, present.stop)):
            if str(path) in self.down:
                low = F.conv2d(
                    x_paths[place], self.down[str(path)], None, base.stride, base.padding, base.dilation, base.groups
                )
                # in place: a convolution's backward does not need its output
                y_paths[place].add_(F.conv2d(low, self.up[str(path)]))
        return y
