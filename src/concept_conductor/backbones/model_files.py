"""The files of a model folder, which strangers wrote: ordinary ones that lie in it, and JSON that is read strictly."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concept_conductor.errors import ConductorError
from concept_conductor.io.ordinary import read_bounded

MAX_CONFIG_BYTES = 2**20
MAX_DIGITS = 40
"""Of a whole number; tokenizers say "no limit" with 31 digits."""
MAX_ENTRIES = 10_000
"""Files that a folder is looked through for."""

HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class ModelFiles:
    """The files of one model folder.

    Links may lead to other files of the folder, and from a snapshot in the hub's cache to the blobs beside it; what
    lies elsewhere is refused, so that a model is what its folder holds and what its hash covers.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        real = Path(os.path.realpath(root))
        self._allowed = [real]
        if real.parent.name == "snapshots":
            blobs = real.parent.parent / "blobs"
            if os.path.realpath(blobs) == str(blobs):
                self._allowed.append(blobs)

    def find(self, name: str) -> Path | None:
        """Return the file called ``name`` ("unet/config.json"), or None where there is none.

        Raises:
            ConductorError: it is no ordinary file, or lies elsewhere.
        """
        path = self.root / name
        if not os.path.lexists(path):
            return None
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(folder) for folder in self._allowed):
            raise ConductorError(
                f"'{path}' leads out of the model's folder to '{real}'; expected a file of its own, copy it there"
            )
        if not real.is_file():
            raise ConductorError(f"'{path}' is no ordinary file; get the model again")
        return path

    def names(self, part: str) -> list[str]:
        """Return the sorted names of what lies in the folder of one part, nothing where there is no such folder.

        Raises:
            ConductorError: there are absurdly many.
        """
        found: list[str] = []
        folder = self.root / part
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) > MAX_ENTRIES:
                        raise ConductorError(f"'{folder}' holds more than {MAX_ENTRIES:,} files, which no model has")
        return sorted(found)

    def read(self, name: str, most: int = MAX_CONFIG_BYTES) -> str:
        """Return the text of a file of at most ``most`` bytes.

        Raises:
            ConductorError: it is missing, no ordinary file of the folder, too large, or not UTF-8.
        """
        path = self.find(name)
        if path is None:
            raise ConductorError(f"the model '{self.root}' lacks {name}; get it again, whole")
        try:
            return read_bounded(path, most).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConductorError(
                f"'{path}' is not UTF-8 text (byte {error.start}); it is damaged, get the model again"
            ) from error

    def json(self, name: str, most: int = MAX_CONFIG_BYTES) -> dict[str, Any]:
        """Return the JSON object in a file of at most ``most`` bytes.

        Raises:
            ConductorError: as for :meth:`read`, or it is no strict JSON: a key given twice, NaN, numbers of too many
                digits, half characters.
        """
        return parse_json(self.read(name, most), str(self.root / name))


def first_line(error: Exception) -> str:
    """Return the beginning of what a library says, for a sentence of our own."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:200]


def parse_json(text: str, source: str) -> dict[str, Any]:
    """Return the JSON object in ``text``.

    Raises:
        ConductorError: it holds none, or something that not all readers understand alike.
    """
    try:
        data = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_no_number,
        )
        if HALF_A_PAIR.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ConductorError(f"'{source}' holds half a character (\\ud800); get the model again") from error
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConductorError(f"'{source}' is no valid JSON ({reason}); it is damaged, get the model again") from error
    if not isinstance(data, dict):
        raise ConductorError(f"'{source}' holds no JSON object; expected settings such as {{\"name\": 1}}")
    return data


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"'{name[:60]}' stands there twice")
    return found


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")
