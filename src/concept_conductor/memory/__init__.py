"""How much memory a run will need, estimated before any weight is loaded."""

from __future__ import annotations

from concept_conductor.memory.estimate import Estimate, Rehearsal, Thrift

__all__ = ["Estimate", "Rehearsal", "Thrift"]
