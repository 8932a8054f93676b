"""The training loop that VAE, U-Net and judge share: moving average, schedule, checkpoints, exact resume, replicas.

Everything random in step n is drawn from a generator seeded by (seed, n, rank), so that a run that was killed and
resumed computes what an uninterrupted one does.
"""

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from concept_conductor.io.files import atomic_write
from concept_conductor.mini.muon import Muon


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train. Ends after `minutes` of training time or `steps`, whichever is first."""

    minutes: float = float("inf")
    steps: float = float("inf")
    muon: float = 2e-3
    """Learning rate of hidden matrices and kernels."""
    adam: float = 1e-3
    """Learning rate of everything else: norms, biases, embeddings, first and last layers."""
    warmup: int = 100
    """Steps."""
    decay: float = 0.4
    """The last share of the run, in which learning rates fall linearly to `floor` of their values."""
    floor: float = 0.02
    average: float = 0.999
    """Decay of the moving average of weights (shorter at the start)."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    checkpoint_minutes: float = 2.0
    seed: int = 0

    def rate(self, step: int, progress: float) -> float:
        """Factor on the learning rates at `progress` 0..1."""
        return min(1, (step + 1) / self.warmup) * min(1, max(self.floor, (1 - progress) / self.decay))


@dataclass(frozen=True)
class Replica:
    """One of `count` processes that train together, each on its own draws; alone it is 0 of 1."""

    rank: int = 0
    count: int = 1

    def mean(self, values: Tensor) -> None:
        """Average `values` over the processes, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(values)
            values /= self.count


ALONE = Replica()


Model = TypeVar("Model", bound=nn.Module)


class Trainer(Generic[Model]):
    """Trains `model` on what `loss(model, generator)` returns, keeping its state in the file `state`.

    `averaged` holds the moving average. `progress` runs from 0 to 1, over processes killed and resumed.
    """

    def __init__(
        self,
        model: Model,
        averaged: Model,
        loss: Callable[[Model, torch.Generator], Tensor],
        settings: Settings,
        state: Path,
        replica: Replica = ALONE,
        edges: tuple[nn.Module, ...] = (),
    ):
        self.model, self.loss = model, loss
        self.averaged = averaged.eval().requires_grad_(False)
        self.settings, self.state, self.replica = settings, state, replica
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        outer = {id(p) for module in edges for p in module.parameters()}
        hidden = [p for p in self.parameters if p.ndim >= 2 and id(p) not in outer]
        others = [p for p in self.parameters if p.ndim < 2 or id(p) in outer]
        self.optimisers: list[torch.optim.Optimizer] = [
            Muon(hidden, settings.muon),
            torch.optim.AdamW(others, settings.adam, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        ]
        self.bases = [settings.muon, settings.adam]
        # Gradients are views of one vector: averaged, measured and clipped at once. Its last entry is the clock.
        self.gradient = torch.zeros(sum(p.numel() for p in self.parameters) + 1, device=self.parameters[0].device)
        start = 0
        for p in self.parameters:
            p.grad = self.gradient[start : start + p.numel()].as_strided(p.shape, p.stride(), start)
            start += p.numel()
        self.step, self.seconds, self.recent = 0, 0.0, 0.0
        self.averaged.load_state_dict(model.state_dict())
        if state.exists():
            self._resume()

    @property
    def progress(self) -> float:
        """Share of the run that is done, 0..1."""
        return min(1.0, max(self.seconds / 60 / self.settings.minutes, self.step / self.settings.steps))

    def run(self, report: Callable[["Trainer[Model]"], None] = lambda trainer: None) -> None:
        """Train to the end; `report` is called, in the first replica, after each checkpoint."""
        self.model.train()
        started, saved = time.monotonic() - self.seconds, self.seconds
        while self.progress < 1:
            self._advance(started)
            if self.seconds - saved > 60 * self.settings.checkpoint_minutes or self.progress >= 1:
                saved = self.seconds
                if self.replica.rank == 0:
                    self.save()
                    report(self)
                    self.model.train()

    def __str__(self) -> str:
        return f"step {self.step}, {self.seconds / 60:.1f} min, loss {self.recent:.4f}"

    def _advance(self, started: float) -> None:
        """One step."""
        for optimiser, base in zip(self.optimisers, self.bases):
            for group in optimiser.param_groups:
                group["lr"] = base * self.settings.rate(self.step, self.progress)
        seed = (self.settings.seed * 1_000_003 + self.step) * 64 + self.replica.rank
        self.gradient.zero_()
        loss = self.loss(self.model, torch.Generator().manual_seed(seed))
        loss.backward()
        self.gradient[-1] = time.monotonic() - started
        self.replica.mean(self.gradient)
        self.seconds = self.gradient[-1].item()
        self.gradient[-1] = 0
        self.gradient.mul_((self.settings.clip / (self.gradient.norm() + 1e-6)).clamp(max=1))
        for optimiser in self.optimisers:
            optimiser.step()
        self.step += 1
        keep = min(self.settings.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - keep)
        self.recent += (loss.item() - self.recent) * max(0.01, 1 / self.step)

    def save(self) -> None:
        """Write the state; a kill leaves it or the one before whole."""
        with atomic_write(self.state) as file:
            torch.save(
                {
                    "model": self.model.state_dict(),
                    "averaged": self.averaged.state_dict(),
                    "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                    "step": self.step,
                    "seconds": self.seconds,
                    "recent": self.recent,
                },
                file,
            )

    def _resume(self) -> None:
        state = torch.load(self.state, map_location=self.gradient.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"]):
            optimiser.load_state_dict(saved)
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]


def launch(function: Callable[..., None], *args: Any, processes: int = 1) -> None:
    """Call `function(*args, replica)` in `processes` processes of one thread each that can average tensors.

    On a CPU two such processes train faster than one of two threads.
    """
    if processes == 1:
        function(*args, ALONE)
        return
    with tempfile.TemporaryDirectory() as meeting:
        point = (Path(meeting) / "point").as_uri()
        spawn(_replicate, (function, args, processes, point), nprocs=processes)


def _replicate(rank: int, function: Callable[..., None], args: tuple[Any, ...], processes: int, point: str) -> None:
    os.setsid()  # schedulers that group by session would else share one core among the replicas
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.distributed.init_process_group("gloo", init_method=point, rank=rank, world_size=processes)
    function(*args, Replica(rank, processes))
    torch.distributed.destroy_process_group()
