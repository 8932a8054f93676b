"""A personalized subject: load it, save it, tell its family."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from concept_conductor.concepts.data import ConceptPart
from concept_conductor.concepts.families import family_of
from concept_conductor.concepts.formats import native
from concept_conductor.concepts.loader import load_part


class Concept(ConceptPart):
    """One personalized subject; its fields are those of :class:`ConceptPart`."""

    @property
    def family(self) -> str | None:
        """``sd15``, ``sd21`` or ``sdxl``, by the shapes and names it holds; None where nothing tells.

        Raises:
            FamilyError: parts of it are made for different families.
        """
        return family_of(self)

    @classmethod
    def load(cls, source: str | Path, *others: str | Path, revision: str | None = None) -> Concept:
        """Read a concept from any supported file, or from several that belong together; see :func:`load_part`."""
        part = load_part(source, *others, revision=revision)
        return cls(**{field.name: getattr(part, field.name) for field in fields(part)})

    def save(self, path: str | Path) -> Path:
        """Write this project's own safetensors format; the file appears whole or not at all."""
        return native.save(self, path)
