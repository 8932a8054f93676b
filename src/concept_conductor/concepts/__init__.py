"""Concepts and their files: what a concept is, how it is spoken of, and one module per file format."""

from concept_conductor._deprecated import names

__getattr__ = names(
    __name__,
    {
        "Concept": "concepts.concept.Concept",
        "FullWeight": "concepts.data.FullWeight",
        "LowRank": "concepts.data.LowRank",
        "Update": "concepts.data.Update",
    },
)
