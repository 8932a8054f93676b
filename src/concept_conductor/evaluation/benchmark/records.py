"""What a results folder says of its images: a record of each, and a manifest of all."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class RecordedProvenance(BaseModel):
    """What a record's provenance must have."""

    model_config = ConfigDict(extra="allow")

    versions: dict[str, str]
    recipe: dict[str, Any]


class ImageRecord(BaseModel):
    """What an image of a benchmark was asked to be.

    Attributes:
        key: the job's.
        method, combination, prompt, text, seed, concepts: what was asked for.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    key: Key
    method: str
    combination: str
    prompt: str
    text: str
    seed: int
    concepts: list[str]


class JobRecord(ImageRecord):
    """What is kept of a finished job.

    Attributes:
        sha256, masks_sha256: of its image, and of its masks where there are any.
        masks: shape of its masks, ``(concepts, h, w)``.
        seconds, peak_memory_bytes: what it took.
        provenance: as in the image.
    """

    sha256: str
    masks_sha256: str | None
    masks: tuple[int, int, int]
    seconds: float
    peak_memory_bytes: int
    provenance: RecordedProvenance

    @property
    def short(self) -> dict[str, Any]:
        """The record as the manifest has it: recipe and file hashes stay in the image's own."""
        rest = self.model_dump(mode="json", exclude={"provenance", "masks", "masks_sha256"})
        return {**rest, "versions": self.provenance.versions, "device": self.provenance.recipe.get("device")}


class Manifest(BaseModel):
    """What other commands read of a manifest."""

    format: int
    methods: dict[str, str]
    references: dict[str, list[str]]
    images: list[ImageRecord]
