"""Gradient checkpointing that knows which forward a block belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from concept_conductor.denoiser.paths import Paths


@contextmanager
def checkpointed(unet: nn.Module, paths: Paths, last: nn.Module | None = None) -> Iterator[None]:
    """Keep only what lies between the U-Net's blocks of forwards inside this context; gradients compute the rest again.

    Where a block is run again, maybe long after the context has ended, the layers see the forward it ran in first.

    Args:
        unet: the U-Net; afterwards it is set as it was.
        paths: tells its layers what a forward is for.
        last: a layer inside of which the forward is ended by an exception; its block is left alone.
    """

    def run(block: nn.Module, *args: Any) -> Any:
        if last is not None and any(module is last for module in block.modules()):
            return block(*args)
        forward = paths.forward

        def again(*inputs: Any) -> Any:
            with paths.running(forward):
                return block(*inputs)

        return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False)

    names = ("gradient_checkpointing", "_gradient_checkpointing_func")  # where diffusers' blocks look
    blocks = [module for module in unet.modules() if hasattr(module, names[0])]
    before = [{name: vars(block)[name] for name in names if name in vars(block)} for block in blocks]
    try:
        for block in blocks:
            vars(block).update(zip(names, (True, run)))
        yield
    finally:
        for block, values in zip(blocks, before):
            for name in names:
                vars(block).pop(name, None)
            vars(block).update(values)
