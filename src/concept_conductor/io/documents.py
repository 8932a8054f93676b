"""YAML and JSON written by people: read safely, with errors that name the field and the line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.constructor import SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from concept_conductor.errors import ConductorError

MAX_BYTES = 2**20
MAX_DEPTH = 20
MAX_VALUES = 20_000
"""Values of a document once its aliases are written out."""

TOO_LONG = "a whole number of too many digits"

FieldPath = tuple[str | int, ...]
"""Where a value stands: ``("concepts", 0, "weight")``."""

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
        """The line of ``place``, or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def validated(self, model: type[Model]) -> Model:
        """The document as a ``model``.

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
            problems = error.errors(include_url=False)
            for problem in problems:
                place = tuple(part for part in problem["loc"])
                if problem["type"] == "too_short" and any(
                    len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in problems
                ):
                    continue  # only because the entries that do not fit are not counted
                line = self.line(place)
                where = self.source if line is None else f"{self.source}, line {line}"
                sentences.append((line or 0, f"{where}: {explained(problem, model)}"))
            raise DocumentError("\n".join(sentence for _, sentence in sorted(sentences))) from error


def read_document(path: str | Path) -> Document:
    """Read one YAML (or, by its ending, JSON) document.

    Raises:
        DocumentError: missing, larger than 1 MiB, not UTF-8, no valid YAML or JSON, a key given twice, or aliases
            that multiply ("YAML bomb").
    """
    path = Path(path)
    if not path.is_file():
        raise DocumentError(f"there is no file '{path}'; check the path")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise DocumentError(f"{path}: expected at most {MAX_BYTES:,} bytes, but it has {size:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: expected UTF-8 text, but byte {error.start} is none; save it as UTF-8") from error
    if path.suffix.lower() == ".json":
        return read_json(text, str(path))
    return read_yaml(text, str(path))


def read_json(text: str, source: str) -> Document:
    """Read JSON; lines are found by reading it as the YAML that it nearly is."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        reason = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", TOO_LONG)
        raise DocumentError(f"{source}, line {line}: this is no valid JSON: {reason}") from error
    try:
        lines = read_yaml(text.replace("\t", " "), source).lines  # JSON has tabs only between its tokens
    except DocumentError as error:
        if not isinstance(error.__cause__, yaml.YAMLError):
            raise
        lines = {}  # a character that YAML does not have
    return Document(source, data, lines)


def read_yaml(text: str, source: str) -> Document:
    """Read YAML with plain values only."""
    try:
        _check_extent(text, source)
        node = yaml.compose(text, _Loader)
        document = Document(source, None)
        document.data = _Reader(document).value(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "unreadable characters"
        where = source if not isinstance(mark, yaml.Mark) else f"{source}, line {mark.line + 1}"
        raise DocumentError(
            f"{where}: this is no valid YAML: {problem}; check colons, quotes and indentation"
        ) from error
    return document


def _check_extent(text: str, source: str) -> None:
    """Refuse too deep or too long a document from its stream of events, before anything recursive reads it."""
    depth = values = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH or values > 2 * MAX_VALUES:  # keys are nodes too
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise DocumentError(
                f"{source}, line {line}: expected at most {MAX_VALUES:,} values in {MAX_DEPTH} levels; this is more"
            )


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``3e-3`` is a number, as in JSON and YAML 1.2; PyYAML wants ``3.0e-3``."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class _Reader:
    """Turns nodes into values, noting their lines and counting them."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.constructor = SafeConstructor()
        self.count = 0

    def value(self, node: Node, place: FieldPath) -> Any:
        line = node.start_mark.line + 1
        self.document.lines.setdefault(place, line)
        self.count += 1
        if self.count > MAX_VALUES or len(place) > MAX_DEPTH:
            raise DocumentError(
                f"{self.document.source}, line {line}: aliases make this more than {MAX_VALUES:,} values or "
                f"{MAX_DEPTH} levels; write it out plainly"
            )
        if isinstance(node, MappingNode):
            return self.mapping(node, place)
        if isinstance(node, SequenceNode):
            return [self.value(entry, (*place, index)) for index, entry in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: MappingNode, place: FieldPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise DocumentError(f"{self.document.source}, line {line}: expected a plain word before the colon")
            key = str(key_node.value)
            if key in result:
                raise DocumentError(
                    f"{self.document.source}, line {line}: '{named((*place, key))}' stands here a second time; "
                    "keep one of the two"
                )
            self.document.lines[(*place, key)] = line
            result[key] = self.value(value_node, (*place, key))
        return result

    def scalar(self, node: Node) -> Any:
        try:
            return self.constructor.construct_object(node)
        except ValueError as error:  # a date such as 2020-99-99, or thousands of digits
            raise DocumentError(
                f"{self.document.source}, line {node.start_mark.line + 1}: {_shown(node.value)} cannot be read "
                f"({str(error).partition(';')[0]}); put it in quotes"
            ) from error


def named(place: Sequence[str | int]) -> str:
    """A place as people write it: ``concepts[0].weight``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def explained(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    """One of pydantic's findings as a sentence: what was expected, what came, how to mend it."""
    place, kind, value = problem["loc"], problem["type"], problem["input"]
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
    """The fields that a nested model knows at ``place``."""
    for part in place:
        if not isinstance(part, str) or part not in model.model_fields:
            continue
        inner = _model_in(model.model_fields[part].annotation)
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside of ``tuple[Model, ...]``, ``Model | None`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)


def _shown(value: Any) -> str:
    """A value for a message, shortened."""
    if value is None:
        return "empty"
    if isinstance(value, Mapping):
        return "a group of fields"
    if isinstance(value, list):
        return "a list"
    try:
        text = repr(value)
    except ValueError:  # written in hexadecimal, where Python reads any length
        return TOO_LONG
    return text if len(text) <= 60 else text[:57] + "..."
