"""Recipes: what is read, and how mistakes in them are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from concept_conductor.errors import ConductorError
from concept_conductor.io.documents import DocumentError, read_document
from concept_conductor.recipes.schema.fields import parse_seeds
from concept_conductor.recipes.schema.recipe import Recipe, RecipeError
from concept_conductor.settings import Alignment, Refinement
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
        ("steps: 50", "steps: yes", 13, "'steps': expected a valid integer, but it is 'yes'"),
        ("steps: 50", "steps: 1_000", 13, "'steps': expected a valid integer, but it is '1_000'"),
        ("guidance_scale: 7", "guidance_scale: 1e9", 14, "'guidance_scale': expected a number less than or equal to"),
        ("guidance_scale: 7", "guidance_scale: .inf", 14, "'guidance_scale': expected a finite number"),
        ("paths_per_forward: 1", "paths_per_forward: 0x7fffffffffffffff", 20, "'paths_per_forward': expected a number"),
        ("alignment: off", "alignment: {step_size: 1e300}", 16, "'alignment.step_size': expected a number less than"),
        ("alignment: off", "alignment: {concept_weight: 1e99}", 16, "'alignment.concept_weight': expected a number"),
        ("image: street.png", f"image: a/{'ä' * 150}", 9, "'layout.image': expected names of at most 255 bytes"),
        ("file: dog.pth", f"file: {'a' * 256}", 4, "'concepts[0].file': expected names of at most 255 bytes"),
        ("file: dog.pth", "file: [dog.pth, 5]", 4, "'concepts[0].file[1]': expected a valid string, but it is 5"),
        ("  steps: 250", f"  cache: {'a' * 256}", 18, "'inversion': expected names of at most 255 bytes"),
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


@given(seeds=st.lists(st.integers(0, 2**62), min_size=1, max_size=20, unique=True))
def test_seeds_as_text_and_as_a_list_agree(seeds: list[int]) -> None:
    assert parse_seeds(", ".join(map(str, seeds))) == seeds
    assert parse_seeds(seeds) == seeds


def test_no_image_is_made_twice(tmp_path: Path) -> None:
    assert Recipe.load(written(tmp_path, "prompt: x\nseeds: [3, 1, 3]")).seeds == (3, 1)


@given(first=st.integers(0, 1000), count=st.integers(1, 100))
def test_a_range_of_seeds(first: int, count: int) -> None:
    assert parse_seeds(f"{first}-{first + count - 1}") == list(range(first, first + count))


@pytest.mark.parametrize(("text", "seeds"), [("010", (10,)), ("0x10", (16,)), ("0o17", (15,)), ("1-3", (1, 2, 3))])
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, seeds: tuple[int, ...]) -> None:
    assert Recipe.load(written(tmp_path, f"prompt: x\nseeds: {text}")).seeds == seeds


@pytest.mark.parametrize("text", ["off", "Off", "no", "false", "'off'"])
def test_parts_are_switched_off_and_on_by_words(tmp_path: Path, text: str) -> None:
    recipe = Recipe.load(written(tmp_path, f"prompt: x\nalignment: {text}\nrefinement: on\noffload: yes\n"))
    assert (recipe.alignment, recipe.refinement, recipe.offload) == (None, Refinement(), True)
    assert Recipe.load(written(tmp_path, f"prompt: x\ninversion: {{cache: {text}}}")).inversion.cache is False


def test_words_that_yaml_1_1_took_for_something_else_are_words(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, "prompt: no\nnegative_prompt: 12:30:45\nprompt_2: 2020-01-01\n"))
    assert (recipe.prompt, recipe.negative_prompt, recipe.prompt_2) == ("no", "12:30:45", "2020-01-01")


def test_every_prompt_is_among_the_texts(tmp_path: Path) -> None:
    text = WHOLE + "negative_prompt: blurred\nprompt_2: second\n"
    assert Recipe.load(written(tmp_path, text)).texts() == [
        *("A dog and a cat on the beach.", "blurred", "second", "A <dog_1> <dog_2> on the beach."),
        "A dog and a cat in the street.",
    ]


def test_an_error_that_names_its_place_is_told_once(tmp_path: Path) -> None:
    recipe = Recipe.load(written(tmp_path, WHOLE))
    with pytest.raises(RecipeError) as caught, recipe.blaming("layout"), recipe.blaming("layout", "image"):
        raise ConductorError("is damaged")
    assert str(caught.value) == f"{tmp_path / 'recipe.yaml'}, line 9: 'layout.image': is damaged"


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


def test_a_field_of_several_types_is_told_what_is_wrong_with_the_one_that_came(tmp_path: Path) -> None:
    """A concept's file is a name or a list of names: a name that is too long is no missing list."""
    file = tmp_path / "recipe.yaml"
    file.write_text(f"prompt: a dog\nconcepts:\n  - file: {'x' * 300}\n    replaces: [dog]\n")
    with pytest.raises(ConductorError) as caught:
        Recipe.load(file)
    said = str(caught.value)
    assert "'concepts[0].file': expected names of at most 255 bytes" in said and "expected a list" not in said
