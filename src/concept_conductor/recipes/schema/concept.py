"""A recipe's concepts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from concept_conductor.io.documents import FieldPath
from concept_conductor.recipes.schema.fields import Name, Real, Text, listed
from concept_conductor.settings import Settings


class ConceptEntry(Settings):
    """One concept.

    Attributes:
        file: its file or folder, the name of a shipped one (``mini/NAME``) or of a hub repository (``user/name``,
            ``user/name/file.safetensors``), or a list of those that make one concept together.
        revision: branch, tag or commit of hub repositories.
        prompt: the prompt variant with the concept's placeholders; or
        replaces: the words of the recipe's prompt that the placeholders replace.
        prompt_2: its variant of the recipe's ``prompt_2``.
        weight: how strongly the low-rank weights apply.
    """

    file: Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=8)]
    revision: Text | None = None
    prompt: Text | None = None
    prompt_2: Text | None = None
    replaces: Annotated[tuple[Text, ...], BeforeValidator(listed)] | None = None
    weight: Annotated[Real, Field(ge=-10, le=10)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> ConceptEntry:
        if (self.prompt is None) == (self.replaces is None):
            raise ValueError("expected either 'prompt' (with the placeholders) or 'replaces', exactly one of the two")
        return self

    def files(self) -> dict[FieldPath, str]:
        """Return the files that it names: place in this entry -> name as written."""
        if isinstance(self.file, str):
            return {("file",): self.file}
        return {("file", number): name for number, name in enumerate(self.file)}
