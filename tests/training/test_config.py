"""Recipes of a training: what is read, and how mistakes in them are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from concept_conductor.errors import ConductorError
from concept_conductor.training.config import TrainingConfig
from tests.training.conftest import recipe

EXAMPLES = Path(__file__).parents[2] / "examples" / "concepts"
MINIMAL = {
    "model": "mini",
    "images": "photos",
    "output": "out/toy.safetensors",
    "placeholders": "<a>+<b>",
    "class_word": "dog",
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}, sort_keys=False))
    return path


def test_relative_paths_count_from_the_recipe(tmp_path: Path) -> None:
    config = TrainingConfig.load(written(tmp_path))
    assert config.images == tmp_path / "photos"
    assert config.output == tmp_path / "out/toy.safetensors"
    assert config.folder == tmp_path / "out/toy.training"
    assert config.model == "mini"
    assert config.placeholders == ("<a>", "<b>")
    assert config.initialisers == ("<rand-0.013>", "dog")
    assert config.concept_name == "toy"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rates": {"unet": "fast"}}, ("learning_rates.unet", "fast")),
        ({"learning_rate": 1}, ("learning_rate", "learning_rates")),
        ({"rank": 0}, ("rank", "0")),
        ({"batch": 0}, ("batch",)),
        ({"steps": -1}, ("steps",)),
        ({"placeholders": ["<a>", "<a>"]}, ("placeholders", "different")),
        ({"placeholders": ["<a>", "<a>1"]}, ("contains",)),
        ({"placeholders": [" "]}, ("placeholders",)),
        ({"initialiser": "dog"}, ("2 placeholders", "1 initialiser")),
        ({"augmentation": {"templates": "styles"}}, ("styles", "objects")),
        ({"augmentation": {"templates": ["no place"]}}, ("{}",)),
        ({"format": "kohya"}, ("format", "ours", "mixofshow")),
        ({"seed": 2**40}, ("seed",)),
        ({"noise_offset": float("nan")}, ("noise_offset",)),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, changes: dict[str, object], words: tuple[str, ...]
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConductorError) as error:
        TrainingConfig.load(path)
    assert all(word in str(error.value) for word in (str(path), *words)), str(error.value)


def test_missing_and_broken_recipes(tmp_path: Path) -> None:
    for text in ("", "- a", "a: [", "model: mini"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConductorError):
            TrainingConfig.load(tmp_path / "bad.yaml")
    with pytest.raises(ConductorError, match=r"nothing\.yaml"):
        TrainingConfig.load(tmp_path / "nothing.yaml")


@pytest.mark.parametrize("recipe", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_recipes_are_valid(recipe: Path) -> None:
    rates = TrainingConfig.load(recipe).learning_rates
    assert rates.embeddings and 0 < rates.embeddings[0] < 0.1, "3e-3 is a number"


def test_it_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        recipe(tmp_path).steps = 5  # type: ignore[misc]
