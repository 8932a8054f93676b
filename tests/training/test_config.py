"""Recipes and training folders."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image
from pydantic import ValidationError

from concept_conductor.backbones.base import Backbone
from concept_conductor.errors import ConductorError
from concept_conductor.training.config import TrainingConfig
from concept_conductor.training.dataset import read_folder
from concept_conductor.training.plan import Plan
from tests.training.conftest import draw, recipe

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


def test_where_a_recipe_is_silent_the_base_model_decides(
    tmp_path: Path, backbone: Backbone, backbone_xl: Backbone
) -> None:
    config = TrainingConfig.load(written(tmp_path), {"class_word": "a", "resolution": 64, "model": "x"})
    small, large = Plan.of(config, backbone, 4), Plan.of(config, backbone_xl, 4)
    assert small.steps == 1000  # 250 steps for each image at batch 2
    assert (small.batch, small.unet_rate, small.unet_rank, small.precision.value) == (2, 1e-4, 4, "fp32")
    assert (small.embedding_rates, small.text_rates, small.text_ranks) == ((1e-3,), (1e-5,), (4,))
    assert small.norm_thresholds == (0.55,) and not small.gradient_checkpointing
    assert large.steps == 8000  # 2000 steps for each image, one image a step
    assert (large.batch, large.unet_rate, large.unet_rank) == (1, 5e-5, 32)
    assert (large.embedding_rates, large.text_rates, large.text_ranks) == ((1e-3, 5e-4), (1e-5, 2e-6), (4, 32))
    assert large.norm_thresholds == (0.55, 1.5) and large.gradient_checkpointing


def test_what_a_recipe_says_holds(tmp_path: Path, backbone: Backbone, backbone_xl: Backbone) -> None:
    own = {"steps": 7, "rank": 3, "learning_rates": {"embeddings": [1, 2]}, "norm_threshold": 9, "resolution": 64}
    config = TrainingConfig.load(written(tmp_path, **own))
    plan = Plan.of(config, backbone_xl, 4)
    assert (plan.steps, plan.text_ranks, plan.unet_rank) == (7, (3, 3), 3)
    assert (plan.embedding_rates, plan.text_rates, plan.norm_thresholds) == ((1, 2), (1e-5, 2e-6), (9, 9))
    with pytest.raises(ConductorError, match=r"learning_rates.embeddings has 2 numbers.* 1 text encoder;"):
        Plan.of(config, backbone, 4)


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


def test_a_folder_with_everything(photos: Path) -> None:
    examples = read_folder(photos)
    assert [example.name for example in examples] == ["0", "1", "2"]
    assert examples[0].caption == "a <TOK> on the beach, red, square"
    assert examples[0].mask is not None
    assert examples[0].mask.getbbox() == (10, 20, 35, 51)


def test_masks_and_captions_may_be_absent(tmp_path: Path) -> None:
    plain = read_folder(draw(tmp_path / "plain", 1, masks=False, captions=False))
    assert (plain[0].mask, plain[0].caption) == (None, None)
    some = draw(tmp_path / "some", 2)
    (some / "0.txt").unlink()
    (some / "masks" / "1.png").unlink()
    first, second = read_folder(some)
    assert first.caption is None
    assert second.mask is None


def test_masks_may_lie_elsewhere(photos: Path) -> None:
    (photos / "masks").rename(photos.parent / "outlines")
    assert read_folder(photos)[0].mask is None
    assert read_folder(photos, photos.parent / "outlines")[0].mask is not None


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (
            lambda folder: (folder / "masks" / "9.png").write_bytes((folder / "masks/0.png").read_bytes()),
            "belongs to no image",
        ),
        (lambda folder: (folder / "9.txt").write_text("a <TOK>"), "belongs to no image"),
        (lambda folder: (folder / "0.txt").write_text("a dog"), "<TOK> was expected"),
        (lambda folder: (folder / "0.txt").write_text(""), "<TOK> was expected"),
        (lambda folder: (folder / "0.txt").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (lambda folder: (folder / "0.png").write_bytes(b"no image"), r"0\.png"),
        (lambda folder: (folder / "0.jpg").write_bytes((folder / "0.png").read_bytes()), "same stem"),
        (lambda folder: Image.new("L", (64, 64)).save(folder / "masks" / "0.png"), "empty"),
        (lambda folder: Image.new("L", (64, 32), 255).save(folder / "masks" / "0.png"), "same shape"),
        (lambda folder: [draw_many(folder)], "33 images"),
    ],
)
def test_what_is_wrong_in_a_folder_is_named(photos: Path, harm: object, words: str) -> None:
    harm(photos)  # type: ignore[operator]
    with pytest.raises(ConductorError, match=words):
        read_folder(photos)


def draw_many(folder: Path) -> None:
    for index in range(30):
        (folder / f"more{index}.png").write_bytes((folder / "0.png").read_bytes())


def test_no_folder_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(ConductorError, match="no folder"):
        read_folder(tmp_path / "nothing")
    with pytest.raises(ConductorError, match="0 images"):
        read_folder(tmp_path)
    with pytest.raises(ConductorError, match="no folder of masks"):
        read_folder(draw(tmp_path / "photos", 1), tmp_path / "nothing")
