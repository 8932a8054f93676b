"""What people import: everything in ``concept_conductor.__all__``, and all that README and docs import."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import concept_conductor
from tests.test_docs import PAGES, README, samples

SOURCE = Path(concept_conductor.__file__)


@pytest.mark.parametrize("name", concept_conductor.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    namespace: dict[str, object] = {}
    exec(f"from concept_conductor import {name}", namespace)
    found = namespace[name]
    if name != "__version__":
        assert found is getattr(importlib.import_module(found.__module__), name)  # type: ignore[attr-defined]


def test_the_lists_of_public_names_agree() -> None:
    """The one for people, the one for type checkers, and the one by which names are found."""
    assert dir(concept_conductor) == sorted(concept_conductor.__all__)
    typed = {
        alias.name: node.module
        for node in ast.walk(ast.parse(SOURCE.read_text()))
        if isinstance(node, ast.ImportFrom) and node.col_offset
        for alias in node.names
    }
    homes = {name: f"concept_conductor.{home}" for name, home in concept_conductor._HOMES.items()}
    assert typed == homes
    assert {*homes, "__version__"} == set(concept_conductor.__all__)


def test_a_star_brings_all_of_them() -> None:
    namespace: dict[str, object] = {}
    exec("from concept_conductor import *", namespace)
    assert set(concept_conductor.__all__) <= set(namespace)


def test_other_names_are_none() -> None:
    with pytest.raises(AttributeError, match="module 'concept_conductor' has no attribute 'nothing'"):
        _ = concept_conductor.nothing


def imports(page: Path) -> set[str]:
    """The page's imports from the package: in its samples, and among its sentences."""
    found = set(re.findall(r"from concept_conductor[\w.]* import \w+(?:, \w+)*", page.read_text()))
    for text in samples(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom | ast.Import) and "concept_conductor" in ast.unparse(node):
                found.add(ast.unparse(node))
    return found


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.name)
def test_what_the_pages_import_is_there_and_not_deprecated(page: Path) -> None:
    """Warnings are errors here."""
    for line in sorted(imports(page)):
        exec(line, {})


def test_the_pages_do_import_something() -> None:
    assert len(set().union(*(imports(page) for page in (README, *PAGES)))) > 5
