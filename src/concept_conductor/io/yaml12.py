"""YAML 1.2 with plain values only: dicts, lists, texts, numbers, true, false and null, each with its line.

Of YAML 1.1, which PyYAML reads by itself, nothing is left: ``010`` is ten; ``1:30``, ``yes`` and ``2020-01-01`` are
texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from concept_conductor.io.printable import one_line

MAX_BYTES = 2**20
MAX_DEPTH = 20
MAX_VALUES = 20_000
"""Values of a document once its aliases are written out."""

MAX_DIGITS = 100
"""A number that is written with more is not read; no setting has twenty."""

TAG = "tag:yaml.org,2002:"

FieldPath = tuple[str | int, ...]
"""Where a value stands: ``("concepts", 0, "weight")``."""


def named(place: Sequence[str | int]) -> str:
    """Return a place as people write it: ``concepts[0].weight``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{one_line(part)}"
    return text


class YamlError(ValueError):
    """A document that is not read.

    Attributes:
        line: counted from 1; None where it is not known.
        reason: what was expected and what came.
        syntax: whether it is no YAML at all, rather than YAML that is not wanted here.
    """

    def __init__(self, line: int | None, reason: str, *, syntax: bool = False) -> None:
        super().__init__(reason)
        self.line, self.reason, self.syntax = line, reason, syntax


def read(text: str) -> tuple[Any, dict[FieldPath, int]]:
    """Read one document.

    Returns:
        Its value (None for an empty document), and the line of each place in it, counted from 1.

    Raises:
        YamlError: no valid YAML, a tag other than the plain values', a key given twice, more than ``MAX_VALUES`` values
            in ``MAX_DEPTH`` levels, or aliases that make more of it ("YAML bomb").
    """
    try:
        _check_extent(text)
        reader, node = _Reader(), yaml.compose(text, _Loader)
        return (None if node is None else reader.value(node, ())), reader.lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if isinstance(mark, yaml.Mark) else None
        raise YamlError(line, getattr(error, "problem", None) or "unreadable characters", syntax=True) from error


def whole_number(text: str) -> int:
    """Return a whole number as YAML and JSON write it; of too many digits, one that is too large in any case."""
    if len(text) > MAX_DIGITS:
        return 2**64
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


class _Kind(NamedTuple):
    """How one kind of plain values is written, and read."""

    first: Sequence[str]
    pattern: re.Pattern[str]
    read: Callable[[str], Any]


_DIGITS = "0123456789"
# YAML 1.2's core schema
_KINDS = {
    f"{TAG}null": _Kind(["~", "n", "N", ""], re.compile(r"(~|null|Null|NULL|)\Z"), lambda text: None),
    f"{TAG}bool": _Kind("tTfF", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z"), lambda text: text[0] in "tT"),
    f"{TAG}int": _Kind(f"-+{_DIGITS}", re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"), whole_number),
    f"{TAG}float": _Kind(
        f"-+.{_DIGITS}",
        re.compile(r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
        lambda text: float(re.sub(r"\.(?=[iInN])", "", text)),
    ),
    f"{TAG}str": _Kind("", re.compile(""), str),
}


class _Loader(yaml.SafeLoader):
    """Tells plain values apart as YAML 1.2 does."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own type says that it is an instance's
        first: [(tag, kind.pattern) for tag, kind in _KINDS.items() if first in list(kind.first)]
        for first in sorted({first for kind in _KINDS.values() for first in kind.first})
    }


def _check_extent(text: str) -> None:
    """Refuse too deep or too long a document from its stream of events, before anything recursive reads it."""
    depth = values = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        values += isinstance(event, yaml.NodeEvent)
        if depth > MAX_DEPTH or values > 2 * MAX_VALUES:  # keys are nodes too
            raise YamlError(
                event.start_mark.line + 1 if event.start_mark else None,
                f"expected at most {MAX_VALUES:,} values in {MAX_DEPTH} levels; this is more",
            )


class _Reader:
    """Turns nodes into values, noting their lines and counting what aliases make of them."""

    def __init__(self) -> None:
        self.lines: dict[FieldPath, int] = {}
        self.values = self.characters = 0

    def value(self, node: Node, place: FieldPath) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(place, line)
        self.values += 1
        self.characters += len(node.value) if isinstance(node, ScalarNode) else 0
        if self.values > MAX_VALUES or len(place) > MAX_DEPTH or self.characters > MAX_BYTES:
            raise YamlError(
                line, f"aliases make this more than {MAX_VALUES:,} values or {MAX_DEPTH} levels; write it out plainly"
            )
        if isinstance(node, CollectionNode):
            return self._collection(node, place)
        kind = _KINDS.get(node.tag)
        if kind is None:
            raise _unknown_tag(node)
        if not kind.pattern.match(node.value):
            raise YamlError(line, f"expected a value that fits the tag '{_written(node.tag)}'; leave the tag out")
        return kind.read(node.value)

    def _collection(self, node: CollectionNode, place: FieldPath) -> Any:
        if node.tag != (f"{TAG}map" if isinstance(node, MappingNode) else f"{TAG}seq"):
            raise _unknown_tag(node)
        if not isinstance(node, MappingNode):
            return [self.value(entry, (*place, index)) for index, entry in enumerate(node.value)]
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, ScalarNode):
                raise YamlError(line, "expected a plain word before the colon")
            key = str(key_node.value)
            if key in result:
                raise YamlError(line, f"'{named((*place, key))}' stands here a second time; keep one of the two")
            self.lines[(*place, key)] = line
            result[key] = self.value(value_node, (*place, key))
        return result


def _unknown_tag(node: Node) -> YamlError:
    line = node.start_mark.line + 1
    return YamlError(line, f"the tag '{_written(node.tag)}' is not read; leave it out, and write plain values")


def _written(tag: str) -> str:
    """Return a tag as people write it."""
    return tag.replace(TAG, "!!")[:60]
