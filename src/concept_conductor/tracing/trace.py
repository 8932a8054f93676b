"""What a trace is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from concept_conductor.errors import ConductorError
from concept_conductor.settings import SamplingSettings

#: Clusters shown where few concepts would give fewer; the number that layouts from points use.
CLUSTERS = 6
#: Colours that can be told apart.
MAX_CLUSTERS = 24


@dataclass(frozen=True)
class Trace:
    """A look inside a run, written to a folder.

    Attributes:
        folder: where to; made, or replaced if it is a trace's or empty.
        every: look at every how many steps; those that refine masks and the last are always looked at.
        clusters: K of the clusters of self-attention; None for as many as refinement tries at most, but at least 6.
        foreground: words of the base prompt and the layout's whose mean is shown; none for those that the concepts'
            variants replace. In a concept's own path they are its placeholders.
    """

    folder: Path | str
    every: int = 1
    clusters: int | None = None
    foreground: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConductorError(f"a trace looks at every 1, 2, 3... steps, but every={self.every} was asked for")
        if self.clusters is not None and not 2 <= self.clusters <= MAX_CLUSTERS:
            raise ConductorError(f"a trace shows 2 to {MAX_CLUSTERS} clusters, but clusters={self.clusters} was given")
        if isinstance(self.foreground, str):
            object.__setattr__(self, "foreground", (self.foreground,))

    def observed(self, settings: SamplingSettings) -> frozenset[int]:
        """Return the steps of a run that are looked at; all fields of ``settings`` must be filled."""
        return settings.refined_steps | {*range(0, settings.steps, self.every), settings.steps - 1}

    def cluster_count(self, concepts: int) -> int:
        """Return K for so many concepts."""
        return self.clusters or min(max(CLUSTERS, 2 * concepts + 1), MAX_CLUSTERS)
