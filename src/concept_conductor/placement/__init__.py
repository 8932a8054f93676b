"""Object placement: replace or add objects in a given image; all outside of a mask stays the image's own."""

from concept_conductor.placement.background import Background, InvertedBackground, NoisedBackground, composite
from concept_conductor.placement.objects import Add, Replace
from concept_conductor.placement.placement import Placed, Placement

__all__ = ["Add", "Background", "InvertedBackground", "NoisedBackground", "Placed", "Placement", "Replace", "composite"]
