"""`conductor layout`, and recipes whose layout is a collage, generated, or made from boxes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from concept_conductor import ConceptConductorPipeline
from concept_conductor.grounding.grounder import Segment
from concept_conductor.io.images import RECIPE_KEY, read_recipe, save_png
from concept_conductor.pipeline.text_to_image import PlainImages
from concept_conductor.recipes import layout_images, load_layout, model, section
from concept_conductor.recipes.provenance import Provenance
from concept_conductor.recipes.run_folder import file_name
from concept_conductor.recipes.runner import generate
from concept_conductor.recipes.schema.recipe import Recipe
from tests.cli.conftest import assert_same_replay
from tests.compare import assert_same_image, mask_iou
from tests.conftest import TINY

COLLAGE = """\
background: {colour: skyblue}
size: [128, 128]
cutouts:
  - {image: dog.png, position: [30, 90], flip: true}
  - {image: cat.png, mask: cat-mask.png, box: [70, 40, 120, 120], z: 1}
  - {image: dog.png, position: [64, 20], scale: 0.5, scenery: true}
"""
LAYOUT = """\
  image: ref.png
  prompt: A dog and a cat in the street.
  masks: [mask1.png, mask2.png]
"""


@pytest.fixture
def spec(recipe: Path) -> Path:
    """A collage in a folder of its own beside the recipe."""
    folder = recipe.parent / "cuttings"
    folder.mkdir()
    dog = Image.new("RGBA", (40, 30))
    dog.paste((200, 0, 0, 255), (5, 5, 35, 25))
    dog.save(folder / "dog.png")
    Image.new("RGB", (20, 20), (0, 0, 200)).save(folder / "cat.png")
    mask = Image.new("L", (20, 20))
    mask.paste(255, (4, 4, 16, 16))
    mask.save(folder / "cat-mask.png")
    path = folder / "collage.yaml"
    path.write_text(COLLAGE)
    return path


def with_layout(recipe: Path, layout: str) -> None:
    recipe.write_text(recipe.read_text().replace(LAYOUT, layout).replace("steps: 999", "steps: 2"))


def in_mask(file: Path) -> np.ndarray:
    with Image.open(file) as mask:
        return np.asarray(mask) > 127


class Finds:
    """Finds each of the words once, side by side, in images that are brighter above than below."""

    def find(self, image: Image.Image, words: Sequence[str]) -> list[list[Segment]]:
        if not self.accepts(image):
            return [[] for _ in words]
        found = []
        for number, noun in enumerate(words):
            mask = np.zeros(image.size[::-1], dtype=bool)
            mask[40:100, 10 + 55 * number : 50 + 55 * number] = True
            found.append([Segment(noun, 0.9, (10 + 55 * number, 40, 50 + 55 * number, 100), mask)])
        return found

    def accepts(self, image: Image.Image) -> bool:
        """Of the seeds used here none is within a tenth of a level of it: rounding decides nothing."""
        rows = np.asarray(image.convert("RGB"), dtype=float)
        return bool(rows[: len(rows) // 2].mean() > rows[len(rows) // 2 :].mean() + 0.5)

    def identity(self) -> str:
        return "finds"


@pytest.fixture
def finds(tiny_pipe: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch) -> Finds:
    """The tiny model, loaded already, with a stand-in for its grounder."""
    grounder = Finds()
    monkeypatch.setattr(model, "load_pipeline", lambda *_, **__: tiny_pipe)
    monkeypatch.setattr(layout_images, "load_pipeline", lambda *_, **__: tiny_pipe)
    monkeypatch.setattr(section, "default_grounder", lambda *_, **__: grounder)
    return grounder


def accepted(pipe: ConceptConductorPipeline, grounder: Finds, prompt: str) -> int:
    """The first seed whose image the grounder accepts."""
    text_to_image = PlainImages(pipe, steps=2, guidance_scale=7.5, width=128, height=128)
    return next(seed for seed in range(20) if grounder.accepts(text_to_image(prompt, seed)))


def test_a_collage_is_written_with_its_masks(conductor, spec: Path) -> None:
    outcome = conductor("layout", "collage", spec, "--preview", "--out", "here")
    assert outcome.status == 0, outcome.err
    assert sorted(outcome.out.split()) == sorted(map(str, Path("here").iterdir()))
    dog, cat = in_mask(Path("here/layout-mask-1-dog.png")), in_mask(Path("here/layout-mask-2-cat.png"))
    with Image.open("here/layout-image.png") as image:
        pixels = np.asarray(image)
    assert np.array_equal(cat, (pixels == (0, 0, 200)).all(-1))
    red = (pixels == (200, 0, 0)).all(-1)
    assert not (dog & ~red).any() and (red & ~dog)[:40].any()  # the other red one is scenery
    assert (np.flatnonzero(cat.any(0))[[0, -1]] == (70, 119)).all()
    with Image.open("here/layout.png") as preview:
        assert preview.size == (512, 512)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("position: [30, 90]", "position: [300, 90]", "cut-out 1 of 3 lies outside of the collage of 128x128 pixels"),
        ("mask: cat-mask.png", "mask: dog.png", "collage.yaml, line 5: 'layout.collage.cutouts[1]': the cut-out's"),
        ("cat.png, mask: cat-mask.png", "cat.png", "line 5: 'layout.collage.cutouts[1]': a cut-out needs an image"),
        ("size: [128, 128]\n", "", "a colour has no size of its own; give 'size: [width, height]' in pixels"),
        ("size: [128, 128]", "size: [99999, 128]", "line 2: 'size[0]': expected a number less than or equal to 8192"),
        ("dog.png", "none.png", "line 4: 'layout.collage.cutouts[0].image': there is no file"),
        ("colour: skyblue", "colour: sky", "line 1: 'background.colour': 'sky' is no colour"),
        ("colour: skyblue", "colour: skyblue, image: a.png", "'background': expected either 'image', 'colour' or"),
        ("z: 1", "position: [1, 1]", "line 5: 'cutouts[1]': expected either 'box', or 'position' and 'scale'"),
        ("z: 1", "words: a cat", "line 5: 'cutouts[1]': expected 'mask' or 'words'"),
        ("scale: 0.5", "scale: 99999", "cutouts[2]': the cut-out scaled by 99999 would have"),
        ("scale: 0.5", "scale: 1e308", "cutouts[2]': the cut-out scaled by 1e+308 would have"),
        ("scale: 0.5", "scale: -1", "'cutouts[2].scale': expected a number greater than 0"),
        ("scale: 0.5", f"scale: 0x{'f' * 5000}", "but it is a whole number of too many digits"),
        ("position: [30, 90]", "position: [1e300, 5e9]", "cut-out 1 of 3 lies outside of the collage"),
    ],
)
def test_collages_that_cannot_be(conductor, spec: Path, old: str, new: str, said: str) -> None:
    spec.write_text(spec.read_text().replace(old, new, 1))
    outcome = conductor("layout", "collage", spec, "--out", "here")
    assert outcome.status == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not Path("here").exists()


def test_a_recipe_with_a_collage_can_be_replayed_without_the_collages_own_file(
    conductor, recipe: Path, spec: Path, quick
) -> None:
    with_layout(recipe, "  {collage: cuttings/collage.yaml, prompt: A dog and a cat., edit: {grow: 2}}\n")
    outcome = conductor("generate", recipe, "--seeds", "4", "--out", "made")
    assert outcome.status == 0, outcome.err
    assert quick.calls[0]["layout"].image.size == (128, 128)
    record = Provenance.read("made/seed-0004.png")
    assert {name for name in record.files if "cuttings" in name} == {
        "cuttings/dog.png",
        "cuttings/cat.png",
        "cuttings/cat-mask.png",
    }
    assert {"layout.png", "layout-image.png", "layout-mask-1-chow_dog.png"} < {f.name for f in Path("made").iterdir()}
    spec.unlink()
    again = conductor("replay", "made/seed-0004.png", "--json")
    assert json.loads(again.out)["identical"], again.err
    assert quick.calls[1]["layout"].image == quick.calls[0]["layout"].image
    assert quick.calls[1]["layout"].edit == quick.calls[0]["layout"].edit
    Image.new("RGBA", (40, 30), "red").save(spec.parent / "dog.png")
    assert "cuttings/dog.png' is not the file that made this image" in conductor("replay", "made/seed-0004.png").err


def test_a_strangers_image_cannot_have_a_file_read_as_a_collage(
    conductor, recipe: Path, spec: Path, quick, tmp_path: Path
) -> None:
    with_layout(recipe, "  {collage: cuttings/collage.yaml, prompt: A dog and a cat.}\n")
    assert conductor("generate", recipe, "--seeds", "4", "--out", "made").status == 0
    record = json.loads(read_recipe("made/seed-0004.png"))
    record["recipe"]["layout"]["collage"] = str(spec)
    save_png(Image.new("RGB", (8, 8)), tmp_path / "evil.png", {RECIPE_KEY: json.dumps(record)})
    outcome = conductor("replay", tmp_path / "evil.png")
    assert outcome.status == 1
    assert "expected the collage's fields 'background' and 'cutouts' here" in outcome.err


def test_a_generated_layout_is_the_first_that_shows_what_is_wanted(
    conductor, recipe: Path, finds: Finds, tiny_pipe: ConceptConductorPipeline
) -> None:
    with_layout(recipe, "  {generated: {seeds: 0-19}, words: [a dog, a cat]}\n")
    outcome = conductor("generate", recipe, "--seeds", "4", "--out", "made")
    assert outcome.status == 0, outcome.err
    record = Provenance.read("made/seed-0004.png")
    assert record.recipe.layout is not None and record.recipe.layout.generated is not None
    how = record.recipe.layout.generated
    assert how.seeds == (accepted(tiny_pipe, finds, "A dog and a cat on the beach."),)
    assert (how.steps, how.guidance_scale, how.width, how.height) == (2, 7.5, 128, 128)
    with Image.open("made/layout-image.png") as image:
        assert finds.accepts(image)
    assert_same_replay(conductor("replay", "made/seed-0004.png", "--json"))


def test_another_checkpoint_generates_and_is_recorded_and_verified(conductor, recipe: Path, finds: Finds) -> None:
    other = recipe.parent / "other"
    shutil.copytree(TINY, other, ignore=shutil.ignore_patterns("*.png", "*.pth"))
    with_layout(recipe, "  {generated: {seeds: 0-19, model: other, guidance_scale: 3}, words: [a dog, a cat]}\n")
    outcome = conductor("generate", recipe, "--seeds", "4", "--out", "made")
    assert outcome.status == 0, outcome.err
    record = Provenance.read("made/seed-0004.png")
    assert record.files["other"] == record.model  # a copy
    assert record.recipe.layout is not None and record.recipe.layout.generated is not None
    assert record.recipe.layout.generated.guidance_scale == 3
    (other / "model_index.json").write_text("{}")
    assert "other' is not the file that made this image" in conductor("replay", "made/seed-0004.png").err


@pytest.mark.parametrize("layout", ["{prompt: a sky, seed: 3}", "{prompt: a sky}"])
def test_a_collages_background_is_generated(
    conductor, recipe: Path, spec: Path, finds: Finds, tiny_pipe: ConceptConductorPipeline, layout: str
) -> None:
    spec.write_text(COLLAGE.replace("{colour: skyblue}", layout))
    with_layout(recipe, "  {collage: cuttings/collage.yaml, prompt: A dog and a cat.}\n")
    assert conductor("layout", "show", recipe, "--out", "seen").status == 0
    text_to_image = PlainImages(tiny_pipe, steps=2, guidance_scale=7.5, width=128, height=128)
    expected = np.asarray(text_to_image("a sky", 3 if "seed" in layout else 0))
    with Image.open("seen/layout-image.png") as image:
        assert_same_image(np.asarray(image)[:10], expected[:10])  # above all cut-outs


def test_a_layout_from_boxes_has_each_object_in_its_box(conductor, recipe: Path, finds: Finds) -> None:
    boxes = "boxes: [[4, 40, 60, 120], [70, 10, 124, 100]], words: [a dog, a cat]"
    with_layout(recipe, f"  {{{boxes}, generated: {{seeds: 0-19}}}}\n")
    outcome = conductor("generate", recipe, "--seeds", "4", "--out", "made")
    assert outcome.status == 0, outcome.err
    for number, name, (left, top, right, bottom) in (
        (1, "chow_dog", (4, 40, 60, 120)),
        (2, "siberian_cat", (70, 10, 124, 100)),
    ):
        mask = in_mask(Path(f"made/layout-mask-{number}-{name}.png"))
        assert not mask[:top].any() and not mask[bottom:].any()
        assert not mask[:, :left].any() and not mask[:, right:].any()
        assert mask[bottom - 1].any()  # it stands on the box's lower edge
    assert_same_replay(conductor("replay", "made/seed-0004.png", "--json"))


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("{generated: {seeds: 0-1}, words: [a dog, a dog]}", "none of 2 generated candidates shows 2 of 'a dog'"),
        ("{generated: {model: none/here.ckpt}, words: [a dog, a cat]}", "'layout.generated.model': there is no model"),
        ("{generated: on}", "line 9: 'layout': a generated layout needs 'words'"),
        ("{generated: on, words: [a, b], masks: [a, b]}", "leave out 'masks'"),
        ("{boxes: [[1, 1, 9, 9], [1, 1, 9, 9]], words: [a, b], size: [64, 64]}", "boxes 1 and 2 share 100%"),
        ("{boxes: [[1, 1, 9, 9], [20, 1, 99, 9]], words: [a, b], size: [64, 64]}", "box 2 (20, 1, 99, 9) reaches out"),
        ("{boxes: [[1, 1, 9, 9], [20, 1, 99, 9]], words: [a]}", "1 words for 2 boxes"),
        ("{boxes: [[1, 1, 9, 9], [20, 1, 99, 9]]}", "boxes without an 'image' need 'words'"),
        ("{words: [a dog, a cat], prompt: a}", "expected an 'image', a 'collage', 'generated' with 'words'"),
        ("{image: ref.png, words: [a dog, a cat]}", "its 'prompt' is missing"),
        ("{image: ref.png, points: [[1, 1], [9, 9]], prompt: a, threshold: 0.2}", "a 'threshold' is for 'words'"),
        ("{collage: none.yaml, prompt: a}", "line 10: 'layout.collage': there is no file"),
        ("{image: ref.png, masks: [mask1.png, mask2.png], prompt: a, size: [9, 9]}", "leave out 'size'"),
        ("{image: ref.png, masks: [mask1.png, mask2.png], prompt: a, edit: {grow: x}}", "'layout.edit.grow'"),
    ],
)
def test_layouts_that_cannot_be(conductor, recipe: Path, finds: Finds, layout: str, said: str) -> None:
    with_layout(recipe, f"  {layout}\n")
    outcome = conductor("generate", recipe, "--seeds", "4", "--out", "made", "--json")
    assert outcome.status == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not Path("made").exists()


def refused(*_: object, **__: object) -> ConceptConductorPipeline:
    raise AssertionError("the model is loaded")


def test_showing_given_masks_loads_no_model(conductor, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load_pipeline", refused)
    outcome = conductor("layout", "show", recipe, "--out", "seen")
    assert outcome.status == 0, outcome.err
    assert [Path(line).name for line in outcome.out.splitlines()] == [
        "layout.png",
        "layout-image.png",
        "layout-mask-1-chow_dog.png",
        "layout-mask-2-siberian_cat.png",
    ]


@pytest.mark.parametrize("shade", [0, 255])
def test_masks_that_a_run_refuses_are_not_shown(
    conductor, recipe: Path, quick, monkeypatch: pytest.MonkeyPatch, shade: int
) -> None:
    Image.new("L", (128, 128), shade).save(recipe.parent / "mask2.png")
    with monkeypatch.context() as without_model:
        without_model.setattr(model, "load_pipeline", refused)
        outcome = conductor("layout", "show", recipe, "--out", "seen")
    assert outcome.status == 1
    assert "'layout.masks': mask" in outcome.err and outcome.err == conductor("generate", recipe, "--json").err
    assert not Path("seen").exists()


def test_masks_are_shown_where_the_model_is_not(conductor, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace(str(TINY), "elsewhere.safetensors"))
    assert conductor("layout", "show", recipe, "--out", "seen").status == 0


@pytest.mark.parametrize("edit", ["", ", edit: {grow: 12}"])
def test_showing_boxes_shows_what_a_run_starts_with(
    conductor, recipe: Path, finds: Finds, edit: str, tiny_pipe: ConceptConductorPipeline
) -> None:
    boxes = "boxes: [[6, 6, 90, 186], [102, 6, 186, 186]]"
    with_layout(recipe, f"  {{image: ref.png, prompt: A dog and a cat., {boxes}{edit}}}\n")
    assert conductor("layout", "show", recipe, "--out", "seen").status == 0
    (image,) = generate(Recipe.load(recipe).model_copy(update={"seeds": (0,)}), tiny_pipe)
    for number, name in enumerate(("chow_dog", "siberian_cat")):
        shown = in_mask(Path(f"seen/layout-mask-{number + 1}-{name}.png"))
        expected = Image.fromarray(image.layout_masks[number]).resize(shown.shape, Image.Resampling.NEAREST)
        assert mask_iou(shown, np.asarray(expected)) >= 0.98


def test_a_recipe_without_layout_has_none_to_show(conductor, tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text("prompt: a dog\n")
    assert "there is no layout to show" in conductor("layout", "show", tmp_path / "plain.yaml").err


def test_images_of_cutouts_are_not_held_without_end(conductor, spec: Path, monkeypatch) -> None:
    monkeypatch.setattr(load_layout, "MOST_TOGETHER", 1000)
    outcome = conductor("layout", "collage", spec, "--out", "here")
    assert outcome.status == 1
    assert "line 6: 'layout.collage.cutouts[2]': the cut-outs so far have 1,344 pixels" in outcome.err
    assert not Path("here").exists()


def test_nothing_to_show(conductor, recipe: Path) -> None:
    recipe.write_text("prompt: a\nlayout: {image: ref.png, prompt: a, points: []}\n")
    outcome = conductor("layout", "show", recipe, "--out", "here")
    assert outcome.status == 1
    assert "line 2: 'layout.points': it is empty" in outcome.err
    assert not Path("here").exists()


def test_an_edit_that_leaves_nothing_names_the_recipe(conductor, recipe: Path) -> None:
    with_layout(recipe, LAYOUT + "  edit: {grow: -500}\n")
    outcome = conductor("layout", "show", recipe, "--out", "here")
    assert outcome.status == 1
    assert "pets.yaml, line" in outcome.err and "nothing is left of mask 1" in outcome.err


@pytest.mark.parametrize("out", ["taken", "taken/here"])
def test_a_file_where_the_folder_should_be(conductor, spec: Path, out: str) -> None:
    Path("taken").write_text("mine")
    outcome = conductor("layout", "collage", spec, "--out", out)
    assert outcome.status == 1
    assert outcome.err == f"'{out}' is a file, or lies in one; expected a folder, choose another\n"
    assert Path("taken").read_text() == "mine"


def test_names_of_concepts_fit_into_names_of_files() -> None:
    assert file_name("a dog/../\n犬") == "a-dog-----犬"
    assert file_name("x" * 99) == "x" * 60
    assert file_name("\U00020000" * 99) == "\U00020000" * 40


def test_a_collage_behind_a_link_names_the_files_that_it_names_there(conductor, recipe: Path, spec: Path) -> None:
    (spec.parent / "inner").mkdir()
    spec = spec.rename(spec.parent / "inner" / spec.name)
    spec.write_text(spec.read_text().replace("dog.png", "../dog.png").replace("cat", "../cat"))
    (recipe.parent / "link").symlink_to(spec.parent)
    with_layout(recipe, "  {collage: link/collage.yaml, prompt: A dog and a cat.}\n")
    outcome = conductor("layout", "show", recipe, "--out", "here")
    assert outcome.status == 0, outcome.err
