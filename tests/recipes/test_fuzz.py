"""Whatever a recipe's file holds, it is a recipe or one sentence for each mistake, with its file, line and field."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from concept_conductor.io.documents import DocumentError, read_json, read_yaml
from concept_conductor.recipes.schema.recipe import Recipe

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["off", "on", "0-7", "mini", "a.png", "a" * 300, "\N{GRINNING FACE}"])
)
numbers = st.one_of(
    st.integers(-5, 5),
    st.sampled_from([2**31, 2**63, -(2**64), 10**4000]),
    st.floats(allow_nan=True, allow_infinity=True),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)


def names_of(model: Any) -> st.SearchStrategy[str]:
    """A field of a model, or a word that is nearly one."""
    known = st.sampled_from(sorted(model.model_fields))
    return st.one_of(known, known.map(lambda name: name[1:]), st.text(max_size=5))


def wild(fields: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Groups, lists and values in any order."""
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(fields, inner, max_size=3)),
        max_leaves=8,
    )


INNER = (
    "file prompt replaces weight image masks points boxes words collage background cutouts generated seeds objects "
    "replace add mask steps cache end size edit"
)
inner_names = st.sampled_from(INNER.split())
recipes = st.fixed_dictionaries(
    {"prompt": texts}, optional={name: wild(inner_names) for name in Recipe.model_fields if name != "prompt"}
)


def check(read: Any, text: str) -> None:
    """Read a document as a recipe; nothing but a recipe or sentences comes of it."""
    try:
        recipe = read(text, "x").validated(Recipe)
    except DocumentError as error:
        lines = str(error).splitlines()
        assert lines and all(line.startswith(("x, line ", "x: ")) for line in lines), lines
        str(error).encode()  # no half characters, which no terminal shows
    else:
        assert Recipe.model_validate(json.loads(recipe.model_dump_json())) == recipe
        assert all(isinstance(name, str) for name in recipe.files().values())
        assert all(isinstance(text, str) for text in recipe.texts())


@QUICK
@given(data=recipes)
def test_groups_lists_and_values_in_any_order(data: dict[str, Any]) -> None:
    check(read_yaml, yaml.safe_dump(data, allow_unicode=True))
    check(read_json, json.dumps(data))


@QUICK
@given(data=st.dictionaries(names_of(Recipe), scalars, max_size=6))
def test_fields_with_any_value(data: dict[str, Any]) -> None:
    check(read_json, json.dumps(data))


WHOLE = """\
prompt: A dog and a cat.
concepts: [{file: dog.pth, replaces: dog, weight: 0.8}, {file: [a, b], prompt: A <cat>.}]
layout: {image: a.png, prompt: A street., masks: [m.png, n.png], edit: {grow: 2}}
placement: {image: b.png, mask: m.png, background: noise}
steps: 50
seeds: 0-2, 7
alignment: off
refinement: {every: 4}
"""


@QUICK
@given(data=st.data())
def test_a_recipe_with_pieces_cut_doubled_or_put_in(data: st.DataObject) -> None:
    text = WHOLE
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(start + 12, len(text))))
        piece = data.draw(
            st.sampled_from(
                ["", text[start:stop] * 2, "- ", ": ", "{", "]", "&a ", "*a", "!!int ", '"\\ud800"', "\t", "0x", "<<: "]
            )
        )
        text = text[:start] + piece + text[stop:]
    check(read_yaml, text)
