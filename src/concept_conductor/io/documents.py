"""YAML 1.2 and JSON written by people: read safely, with errors that name the field and the line."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from concept_conductor.errors import ConductorError
from concept_conductor.io import yaml12
from concept_conductor.io.ordinary import read_bounded
from concept_conductor.io.printable import one_line
from concept_conductor.io.yaml12 import MAX_BYTES, MAX_DEPTH, MAX_VALUES, YamlError
from concept_conductor.io.yaml12 import FieldPath as FieldPath
from concept_conductor.io.yaml12 import named as named

MAX_WHOLE = 2**63
"""Whole numbers that are as large are nobody's setting; messages would not show the largest."""

Model = TypeVar("Model", bound=BaseModel)


class DocumentError(ConductorError):
    """A file that cannot be read as what it should be; one sentence a line, each naming file, line and field."""


@dataclass
class Document:
    """What a file says, and on which line.

    Attributes:
        source: the file's name, for messages.
        data: plain dicts, lists, strings and numbers.
        lines: place -> line, counted from 1.
    """

    source: str
    data: Any
    lines: dict[FieldPath, int] = field(default_factory=dict)

    def line(self, place: FieldPath) -> int | None:
        """Return the line of ``place``, or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def validated(self, model: type[Model]) -> Model:
        """Return the document as a ``model``.

        Raises:
            DocumentError: it does not fit; one sentence for each field that does not.
        """
        if not isinstance(self.data, dict):
            held = _shown(self.data)
            raise DocumentError(f"{self.source}: expected fields such as 'prompt: ...', but it holds {held}")
        try:
            return model.model_validate(self.data)
        except ValidationError as error:
            sentences = []
            problems = [(self._place(found["loc"]), found) for found in error.errors(include_url=False)]
            for place, problem in problems:
                if problem["type"] == "too_short" and any(
                    len(other) > len(place) and other[: len(place)] == place for other, _ in problems
                ):
                    continue  # only because the entries that do not fit are not counted
                if problem["type"].endswith("_type") and any(
                    other == place and not found["type"].endswith("_type") for other, found in problems
                ):
                    continue  # of a field that takes several types, only the type that came says what is wrong
                line = self.line(place)
                where = self.source if line is None else f"{self.source}, line {line}"
                sentences.append((line or 0, one_line(f"{where}: {explained(place, problem, model)}")))
            raise DocumentError("\n".join(sentence for _, sentence in sorted(sentences))) from error

    def _place(self, parts: FieldPath) -> FieldPath:
        """Return the place that pydantic means, without the names that it gives to the members of unions."""
        place: FieldPath = ()
        value = self.data
        for number, part in enumerate(parts):
            last = number == len(parts) - 1  # which may be missing
            if isinstance(value, dict) and (part in value or last):
                place, value = (*place, part), value.get(part)
            elif isinstance(value, list) and isinstance(part, int):
                place, value = (*place, part), value[part] if part < len(value) else None
        return place


def read_document(path: str | Path) -> Document:
    """Read one YAML 1.2 (or, by its ending, JSON) document.

    Raises:
        DocumentError: missing, no ordinary file, larger than 1 MiB, not UTF-8, no valid YAML or JSON, a key given
            twice, numbers or characters that are none, or aliases that multiply ("YAML bomb").
    """
    path = Path(path)
    try:
        text = read_bounded(path, MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: expected UTF-8 text, but byte {error.start} is none; save it as UTF-8") from error
    except ConductorError as error:
        raise DocumentError(str(error)) from error
    return read_json(text, str(path)) if path.suffix.lower() == ".json" else read_yaml(text, str(path))


def read_json(text: str, source: str) -> Document:
    """Read JSON; lines, and keys given twice, are found by reading it as the YAML that it nearly is.

    Raises:
        DocumentError: as for :func:`read_document`.
    """
    repeated: list[str] = []

    def group(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return found

    try:
        data = json.loads(text, parse_int=yaml12.whole_number, object_pairs_hook=group)
    except (ValueError, RecursionError) as error:
        line, reason = getattr(error, "lineno", 1), getattr(error, "msg", "nested too deeply")
        raise _unreadable(source, line, f"this is no valid JSON: {reason}") from error
    lines: dict[FieldPath, int] = {}
    try:
        _, lines = yaml12.read(text.replace("\t", " "))  # JSON has tabs only between its tokens
    except YamlError as error:
        if not error.syntax:
            raise _unreadable(source, error.line, error.reason) from error
        if repeated:  # and a character that YAML does not have
            reason = f"'{repeated[0]}' stands in a group a second time; keep one of the two"
            raise _unreadable(source, None, reason) from error
    return _with_plain_values(Document(source, data, lines))


def read_yaml(text: str, source: str) -> Document:
    """Read YAML 1.2 with plain values only.

    Raises:
        DocumentError: as for :func:`read_document`.
    """
    try:
        return _with_plain_values(Document(source, *yaml12.read(text)))
    except YamlError as error:
        reason = error.reason
        if error.syntax:
            reason = f"this is no valid YAML: {reason}; check colons, quotes and indentation"
        raise _unreadable(source, error.line, reason) from error


def _unreadable(source: str, line: int | None, reason: str) -> DocumentError:
    return DocumentError(one_line(f"{source}{f', line {line}' if line else ''}: {reason}"))


def _with_plain_values(document: Document) -> Document:
    """Return the same document; refuse in it what no field of anything can hold and no message can show."""
    count = 0

    def plain(value: Any, place: FieldPath) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES or len(place) > MAX_DEPTH:
            raise DocumentError(f"{document.source}: expected at most {MAX_VALUES:,} values in {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return {characters(key, place): plain(entry, (*place, key)) for key, entry in value.items()}
        if isinstance(value, list):
            return [plain(entry, (*place, index)) for index, entry in enumerate(value)]
        if isinstance(value, int) and abs(value) >= MAX_WHOLE:
            raise refused(place, "expected a number below 2**63, but it is a whole number of too many digits")
        return characters(value, place) if isinstance(value, str) else value

    def characters(text: str, place: FieldPath) -> str:
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")  # pairs that were escaped become one
        except UnicodeDecodeError as error:
            raise refused(place, "half of a surrogate pair (\\ud800) is no character; write it whole") from error

    def refused(place: FieldPath, reason: str) -> DocumentError:
        field = f"'{named(place)}': " if place else ""
        return _unreadable(document.source, document.line(place), field + reason)

    document.data = plain(document.data, ())
    return document


def explained(place: FieldPath, problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Return one of pydantic's findings as a sentence: what was expected, what came, how to mend it."""
    kind, value = problem["type"], problem["input"]
    name = named(place)
    if kind == "missing":
        return f"'{name}' is missing; expected it here"
    if kind == "extra_forbidden":
        known = _fields_at(model, place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, 1)
        return f"'{name}' is not known; " + (
            f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(known)}"
        )
    if kind == "value_error":
        reason = str(problem["ctx"]["error"])
        return f"'{name}': {reason}" if name else reason
    if kind in ("too_short", "too_long"):
        bounds = problem["ctx"]
        bound = f"at least {bounds['min_length']}" if kind == "too_short" else f"at most {bounds['max_length']}"
        count = len(value) if isinstance(value, Sequence) else bounds["actual_length"]
        return f"'{name}': expected {bound} in this list, but there are {count}"
    reason = problem["msg"].replace("Input should be ", "expected ", 1).replace("a valid tuple", "a list")
    reason = re.sub(r"a valid dictionary( or instance of \w+)?", "a group of fields", reason)
    reason = re.sub("^expected (?=greater|less)", "expected a number ", reason)
    return f"'{name}': {reason[:1].lower()}{reason[1:]}, but it is {_shown(value)}"


def _fields_at(model: type[BaseModel], place: Sequence[str | int]) -> list[str]:
    """Return the fields that a nested model knows at ``place``."""
    for part in place:
        if not isinstance(part, str) or part not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model inside of ``tuple[Model, ...]``, ``Model | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _shown(value: Any) -> str:
    """Return a value for a message, shortened."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a group of fields"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
