"""Making the image of a job, in this process or in a worker somewhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from concept_conductor.evaluation.benchmark.jobs import Group, Job
from concept_conductor.evaluation.benchmark.methods import Sampler
from concept_conductor.io.tensors import to_images
from concept_conductor.pipeline.pipeline import ConceptConductorPipeline
from concept_conductor.recipes.files import locate_model
from concept_conductor.recipes.model import load_pipeline
from concept_conductor.recipes.runner import RecipeRunner, StepReport
from concept_conductor.recipes.schema.recipe import Recipe


class JobResult(NamedTuple):
    """One image, as it travels from a worker.

    Attributes:
        key: of the job.
        image: RGB, ``(h, w, 3)``, uint8.
        masks: ``(concepts, h, w)``, boolean, on the latent grid.
        record: how it was made: recipe as used, versions, seconds, memory.
    """

    key: str
    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    record: dict[str, Any]


@dataclass
class ImageWorker:
    """Makes images; the model is loaded once, and what is opened for a scene stays for its next image.

    Attributes:
        pipe: None until the first image.
    """

    pipe: ConceptConductorPipeline | None = None
    _group: Group | None = None
    _runner: RecipeRunner | None = field(default=None, repr=False)

    def generate(self, job: Job, progress: Callable[[StepReport], None] | None = None) -> JobResult:
        """Make the image of one job.

        Raises:
            ConductorError: something does not fit; the sentence names the benchmark's line.
        """
        runner = self._open(job.group)
        memory = PeakMemory.start(runner.pipe.backbone.device)
        if job.group.method.sampler is not None:
            return self._by_another_way(job, runner, job.group.method.sampler, memory)
        image = runner.image(job.seed, progress)
        record = {
            "provenance": image.provenance.model_dump(mode="json"),
            "seconds": round(image.seconds, 3),
            "peak_memory_bytes": memory.bytes(),
            "memory_of": "gpu" if memory.device.type == "cuda" else "process",
            "blacked_out_by_safety_checker": image.flagged,
        }
        return JobResult(job.key, np.asarray(image.image.convert("RGB")), image.masks, record)

    def _by_another_way(self, job: Job, runner: RecipeRunner, sampler: Sampler, memory: PeakMemory) -> JobResult:
        """Make an image by a method other than this project's; it has no masks."""
        start = time.perf_counter()
        made = to_images(sampler(runner, job.seed)[None])[0]
        (checked,), flagged = runner.pipe.safety_checked([made])
        image = np.asarray(checked.convert("RGB"))
        used = runner.provenance.recipe.model_copy(update={"seeds": (job.seed,)})
        provenance = runner.provenance.model_copy(update={"seed": job.seed, "recipe": used})
        record = {
            "provenance": provenance.model_dump(mode="json"),
            "seconds": round(time.perf_counter() - start, 3),
            "peak_memory_bytes": memory.bytes(),
            "memory_of": "gpu" if memory.device.type == "cuda" else "process",
            "blacked_out_by_safety_checker": bool(flagged and flagged[0]),
        }
        return JobResult(job.key, image, np.zeros((0, *image.shape[:2]), dtype=bool), record)

    def _open(self, group: Group) -> RecipeRunner:
        if self._runner is None or self._group is None or group.content != self._group.content:
            recipe = changed(group)
            if self.pipe is None:
                self.pipe = load_pipeline(locate_model(recipe.model, recipe.folder), recipe)
            runner = RecipeRunner.prepare(recipe, located=group.paths, pipe=self.pipe)
            known = group.model if len(group.model) == 64 else None
            made_with = runner.provenance.model_copy(update={"model": known})
            self._runner, self._group = replace(runner, provenance=made_with), group
        return self._runner


def changed(group: Group) -> Recipe:
    """Return the group's recipe as its method has it."""
    return group.recipe.model_copy(update=dict(group.method.changes))


@dataclass(frozen=True)
class PeakMemory:
    """Measures the most memory that is in use.

    Attributes:
        device: what computes.
    """

    device: torch.device

    @classmethod
    def start(cls, device: torch.device) -> PeakMemory:
        """Forget what was used before, where the system can."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):  # Linux only
                Path("/proc/self/clear_refs").write_text("5")
        return cls(device)

    def bytes(self) -> int:
        """Return the most bytes in use since: of the GPU's memory, else of this process."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        import resource  # not on Windows

        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return usage if sys.platform == "darwin" else usage * 1024
