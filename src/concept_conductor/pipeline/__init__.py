"""The public entry point: a pipeline in the diffusers manner, what it takes, and what it gives."""

from concept_conductor._deprecated import names

__getattr__ = names(
    __name__,
    {
        "ConceptConductorPipeline": "pipeline.pipeline.ConceptConductorPipeline",
        "ConductorOutput": "pipeline.pipeline.ConductorOutput",
    },
)
