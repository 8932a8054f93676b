"""Recipes: what is read, and how mistakes in them are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from concept_conductor.errors import ConductorError
from concept_conductor.io import documents
from concept_conductor.io.documents import DocumentError, read_document, read_yaml
from concept_conductor.recipes.schema.fields import parse_seeds
from concept_conductor.recipes.schema.recipe import Recipe
from concept_conductor.settings import Alignment
from concept_conductor.training.config import TrainingConfig

WHOLE = """\
model: some/model
prompt: A dog and a cat on the beach.
concepts:
  - file: dog.pth
    prompt: A <dog_1> <dog_2> on the beach.
    weight: 0.8
  - {file: cat.pth, replaces: cat}
layout:
  image: street.png
  prompt: A dog and a cat in the street.
  masks: [dog.png, cat.png]
width: 512
steps: 50
guidance_scale: 7
seeds: 0-2, 7
alignment: off
refinement: {every: 4}
inversion:
  steps: 250
paths_per_forward: 1
output: out
"""


def written(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_whole_recipe(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, WHOLE))
    assert recipe.folder == tmp_path
    assert recipe.seeds == (0, 1, 2, 7)
    assert recipe.alignment is None
    assert recipe.refinement is not None
    assert recipe.refinement.every == 4
    assert recipe.concepts[1].replaces == ("cat",)
    assert recipe.files() == {
        ("concepts", 0, "file"): "dog.pth",
        ("concepts", 1, "file"): "cat.pth",
        ("layout", "image"): "street.png",
        ("layout", "masks", 0): "dog.png",
        ("layout", "masks", 1): "cat.png",
    }


def test_the_shortest_recipe(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, "prompt: a dog"))
    assert recipe.model == "mini"
    assert recipe.seeds == (0,)
    assert recipe.alignment == Alignment()


def test_json_is_as_good_as_yaml_and_round_trips(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, WHOLE))
    text = json.dumps(recipe.model_dump(mode="json"), indent="\t")
    again = Recipe.load(written(tmp_path, text, "recipe.json"))
    assert again.model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("steps: 50", "stepps: 50", 13, "'stepps' is not known; did you mean 'steps'?"),
        ("    weight: 0.8", "    wieght: 0.8", 6, "'concepts[0].wieght' is not known; did you mean 'weight'?"),
        ("  steps: 250", "  stops: 250", 19, "'inversion.stops' is not known; did you mean 'steps'?"),
        ("steps: 50", "steps: 0", 13, "'steps': expected a number greater than or equal to 1, but it is 0"),
        ("steps: 50", "steps: many", 13, "'steps': expected a valid integer, but it is 'many'"),
        ("steps: 50", "steps: yes", 13, "'steps': expected a valid integer, but it is True"),
        ("weight: 0.8", "weight: .nan", 6, "'concepts[0].weight': expected a finite number, but it is nan"),
        ("masks: [dog.png, cat.png]", "masks: [dog.png]", 8, "'layout': 1 masks for 2 concepts; give one for each"),
        ("masks: [dog.png, cat.png]", "points: [[1, 2], [3]]", 11, "'layout.points[1][1]' is missing"),
        ("  masks: [dog.png, cat.png]\n", "", 8, "'layout': expected either 'masks', 'points', 'boxes' or 'words'"),
        (
            "masks: [dog.png, cat.png]",
            "boxes: [[1, 2, 3, 4]]",
            8,
            "'layout': 1 boxes for 2 concepts; give one for each",
        ),
        ("replaces: cat", "prompt: a, replaces: cat", 7, "'concepts[1]': expected either 'prompt'"),
        ("file: dog.pth", "weight: 1", 6, "'concepts[0].weight' stands here a second time"),
        ("{file: cat.pth, replaces: cat}", "{replaces: cat}", 7, "'concepts[1].file' is missing"),
        ("seeds: 0-2, 7", "seeds: 7-2", 15, "'seeds': expected 1 to 10,000 seeds from low to high"),
        ("seeds: 0-2, 7", "seeds: few", 15, "'seeds': expected seeds like 3, 0-7 or 0,3,5, but it is 'few'"),
        ("alignment: off", "alignment: never", 16, "'alignment':"),
        ("model: some/model", "device: gpu", 1, "'device': expected auto, cpu, mps, cuda or cuda:1, but it is 'gpu'"),
        ("model: some/model", "dtype: fp16", 1, "'dtype': expected 'auto', 'float32', 'float16' or 'bfloat16'"),
        (
            "prompt: A dog and a cat on the beach.",
            "prompt: [a]",
            2,
            "'prompt': expected a valid string, but it is a list",
        ),
        ("layout:", "layouts:", 8, "'layouts' is not known; did you mean 'layout'?"),
    ],
)
def test_mistakes_are_told_with_line_and_field(tmp_path: Path, old: str, new: str, line: int, said: str) -> None:
    assert old in WHOLE
    path = written(tmp_path, WHOLE.replace(old, new, 1))
    with pytest.raises(DocumentError) as caught:
        Recipe.load(path)
    sentences = str(caught.value).splitlines()
    assert any(sentence.startswith(f"{path}, line {line}: {said}") for sentence in sentences), sentences


def test_every_mistake_gets_its_own_sentence_in_order(tmp_path: Path) -> None:
    path = written(tmp_path, "prompt: a\nwidth: 3\nstepps: 1\nheight: x\n")
    with pytest.raises(DocumentError) as caught:
        Recipe.load(path)
    assert [sentence.split(":")[0][-6:] for sentence in str(caught.value).splitlines()] == [
        "line 2",
        "line 3",
        "line 4",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt: [unclosed", "line 1: this is no valid YAML"),
        ("a: b: c", "line 1: this is no valid YAML"),
        ("- just\n- a list", "expected fields such as 'prompt: ...', but it holds a list"),
        ("", "but it holds empty"),
        ("prompt: !!python/object/apply:os.system [touch hacked]", "line 1"),
        ("prompt: a\n? [x]\n: y", "line 2: expected a plain word"),
        ("prompt: a\n---\nprompt: b", "this is no valid YAML"),
        ("[" * 5000, "line 1: expected at most 20,000 values in 20 levels"),
        ("prompt: &a [*a]", "this is more|aliases make this more"),
        ("- x\n" * 50_000, "expected at most 20,000 values"),
        ("prompt: \x01", "this is no valid YAML"),
        ("prompt: 2020-99-99", "line 1: '2020-99-99' cannot be read"),
        (f"prompt: a\nsteps: {'9' * 5000}", r"line 2: '9{56}\.\.\. cannot be read"),
        (f"prompt: a\nsteps: 0x{'f' * 5000}", "line 2: 'steps': .*but it is a whole number of too many digits"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DocumentError, match=said):
        Recipe.load(written(tmp_path, text))
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_yaml_bomb_is_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(DocumentError, match="aliases make this more than 20,000 values"):
        read_yaml("\n".join(lines), "bomb.yaml")


def test_aliases_in_moderation_are_welcome() -> None:
    assert read_yaml("a: &x {b: 1}\nc: *x", "x").data == {"a": {"b": 1}, "c": {"b": 1}}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="there is no file"):
        read_document(tmp_path / "none.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (documents.MAX_BYTES + 1))
    with pytest.raises(DocumentError, match="expected at most 1,048,576 bytes"):
        read_document(tmp_path / "big.yaml")
    (tmp_path / "latin.yaml").write_bytes("prompt: ä".encode("latin-1"))
    with pytest.raises(DocumentError, match="expected UTF-8 text, but byte 8"):
        read_document(tmp_path / "latin.yaml")
    with pytest.raises(DocumentError, match=r"line 2: this is no valid JSON"):
        read_document(written(tmp_path, '{"a": 1,\n b}', "a.json"))
    with pytest.raises(DocumentError, match=r"no valid JSON"):
        read_document(written(tmp_path, "[" * 100_000, "deep.json"))


def test_json_that_yaml_cannot_read_is_read_without_lines(tmp_path: Path) -> None:
    path = written(tmp_path, '{"prompt": "delete\x7f"}', "a.json")
    assert read_document(path).data == {"prompt": "delete\x7f"}


def test_json_lines_and_surrogates(tmp_path: Path) -> None:
    path = written(tmp_path, '{\n"prompt": "\\ud83d\\ude00",\n\t"steps": 0}', "a.json")
    assert read_document(path).data["prompt"] == "\N{GRINNING FACE}"
    with pytest.raises(DocumentError, match="line 3: 'steps'"):
        Recipe.load(path)


@given(text=st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused_in_clear_words(text: str) -> None:
    for reader in (documents.read_yaml, documents.read_json):
        try:
            reader(text, "x").validated(Recipe)
        except DocumentError as error:
            assert str(error).startswith("x")


@given(seeds=st.lists(st.integers(0, 2**62), min_size=1, max_size=20, unique=True))
def test_seeds_as_text_and_as_a_list_agree(seeds: list[int]) -> None:
    assert parse_seeds(", ".join(map(str, seeds))) == seeds
    assert parse_seeds(seeds) == seeds


def test_no_image_is_made_twice(tmp_path: Path) -> None:
    assert Recipe.load(written(tmp_path, "prompt: x\nseeds: [3, 1, 3]")).seeds == (3, 1)


@given(first=st.integers(0, 1000), count=st.integers(1, 100))
def test_a_range_of_seeds(first: int, count: int) -> None:
    assert parse_seeds(f"{first}-{first + count - 1}") == list(range(first, first + count))


def test_errors_found_later_name_the_line_too(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, WHOLE))
    error = recipe.error(("concepts", 1, "file"), "is damaged")
    assert isinstance(error, ConductorError)
    assert str(error) == f"{tmp_path / 'recipe.yaml'}, line 7: 'concepts[1].file': is damaged"


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_the_examples_are_recipes_with_their_files_beside_them(path: Path) -> None:
    if "class_word" in read_document(path).data:
        TrainingConfig.load(path)
        return
    recipe = Recipe.load(path)
    for name in recipe.files().values():
        assert (recipe.folder / name).is_file() or name.startswith("mini/"), name


def test_json_numbers_of_too_many_digits(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match="no valid JSON: a whole number of too many digits"):
        Recipe.load(written(tmp_path, f'{{"prompt": "a", "steps": {"9" * 5000}}}', "recipe.json"))


@pytest.mark.parametrize(
    ("objects", "said"),
    [
        ("[]", "'placement.objects': expected at least 1 in this list, but there are 0"),
        ("[{}]", "'placement.objects[0]': expected either 'replace' or 'add'"),  # and none about how many there are
        ("5", "'placement.objects': expected a list, but it is 5"),
    ],
)
def test_lists_of_too_few(tmp_path: Path, objects: str, said: str) -> None:
    text = f"prompt: a\nplacement:\n  image: a.png\n  prompt: a\n  objects: {objects}\n"
    with pytest.raises(DocumentError) as caught:
        Recipe.load(written(tmp_path, text))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["9223372036854775808", "0-9999, 10000-10001"])
def test_seeds_that_are_too_large_or_too_many(text: str) -> None:
    with pytest.raises(ValueError, match="expected (seeds below|at most)"):
        parse_seeds(text)
