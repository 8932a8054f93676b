"""The key of a user study: whose the blind images are, for the researcher alone."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import BaseModel, ValidationError

from concept_conductor.errors import ConductorError
from concept_conductor.io.files import atomic_write, safe_name
from concept_conductor.io.ordinary import read_bounded

KEY = "study-key.json"
MAX_KEY = 2**26
"""Bytes of a key."""


class KeyImage(BaseModel):
    """Whose a blind image is.

    Attributes:
        method, combination, prompt, seed: which.
        concepts: their names, in the order of the questions.
        file: its file's name.
    """

    method: str
    combination: str
    prompt: str
    seed: int
    concepts: list[str]
    file: str = ""


class StudyKey(BaseModel):
    """What only the researcher knows of a study.

    Attributes:
        study: its secret name, which the page puts into every answer.
        seed: that chose its images.
        images: an image's secret name -> whose it is.
    """

    study: str
    seed: int = 0
    images: dict[str, KeyImage]

    @classmethod
    def read(cls, folder: Path) -> StudyKey:
        """Read the key of the study in a results folder.

        Raises:
            ConductorError: there is none, or it is damaged.
        """
        file = folder / KEY
        if not os.path.isfile(file):
            raise ConductorError(
                f"'{folder}' holds no study ({KEY} is missing); make one with conductor study {folder}"
            )
        try:
            return cls.model_validate_json(read_bounded(file, MAX_KEY))
        except ValidationError as error:
            raise ConductorError(
                f"'{file}' is damaged; answers cannot be read without it: restore it, or remove it to make a new study"
            ) from error

    def write(self, folder: Path) -> None:
        """Write the key; that of an earlier study is kept under another name, for its answers may still come."""
        file = folder / KEY
        if file.is_file():
            earlier = StudyKey.read(folder)
            if earlier.study != self.study:
                with atomic_write(folder / kept_key(earlier.study)) as stream:
                    stream.write(file.read_bytes())
        with atomic_write(file) as stream:
            stream.write(self.model_dump_json(indent=1).encode())


def kept_key(study: str) -> str:
    """Return the name under which an earlier study's key is kept."""
    return f"study-key-{safe_name(study)}.json"
