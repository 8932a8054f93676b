"""What one further concept costs when paths run one by one, counted in bytes of live tensors."""

from __future__ import annotations

from benchmarks.live_bytes import LiveBytes
from benchmarks.scenes import owed, random_concept, side_by_side
from concept_conductor import Alignment, ConceptConductorPipeline, Inversion, Refinement

PIXELS = 128


def peak(pipe: ConceptConductorPipeline, concepts: int) -> int:
    entries = [random_concept(pipe, seed) for seed in range(concepts)]
    with LiveBytes() as tensors:
        pipe(
            "things on the beach",
            entries,
            side_by_side(PIXELS, PIXELS, concepts),
            num_inference_steps=2,
            alignment=Alignment(end=0.0),
            refinement=Refinement(start=0.5, end=0.5),
            inversion=Inversion(steps=2, cache=False),
            paths_per_forward=1,
            output_type="latent",
        )
    return tensors.peak


def test_a_further_concept_costs_what_is_kept_for_it(tiny_pipe: ConceptConductorPipeline) -> None:
    """Its weights, text, decoder features and mask attention; not a forward's worth."""
    due = sum(owed(tiny_pipe, random_concept(tiny_pipe, 0), PIXELS).values())
    assert 0 < (peak(tiny_pipe, 4) - peak(tiny_pipe, 2)) / 2 <= 1.05 * due
