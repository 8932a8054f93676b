"""Benchmark files: what they mean, and what is said where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.evaluation.benchmark.mini_images import layout_of, references_of
from concept_conductor.evaluation.benchmark.shipped import SHIPPED, open_benchmark, text_of
from concept_conductor.io.documents import DocumentError
from concept_conductor.io.images import load_image, load_mask
from concept_conductor.mini.arrangements import PAIRS, STEPS, WEIGHT


def test_scenes_are_combinations_with_prompts(benchmark_file: Path) -> None:
    scenes = list(Benchmark.load(benchmark_file).scenes())
    assert [(scene.combination, scene.prompt) for scene in scenes] == [
        ("chow + siberian", "beach"),
        ("chow + siberian", "snow"),
        ("siberian + chow", "beach"),
        ("siberian + chow", "snow"),
    ]
    assert scenes[3].text == "A cat and a dog in the snow."
    assert scenes[3].replaces == ("cat", "dog")
    assert scenes[3].layout is not None
    assert scenes[3].layout.prompt == "A cat and a dog in the snow."


def test_prompts_and_layouts_of_a_combination_come_first(benchmark_file: Path) -> None:
    own = """\
  - concepts: [siberian, chow]
    name: own
    prompts: [{text: Two pets., replaces: [pets]}]
    layout: {image: ref.png, prompt: Pets., masks: ["{combination}-{prompt}.png", mask2.png]}
"""
    benchmark_file.write_text(benchmark_file.read_text().replace("  - concepts: [siberian, chow]\n", own))
    scene = list(Benchmark.load(benchmark_file).scenes())[-1]
    assert (scene.combination, scene.prompt, scene.text, scene.replaces) == ("own", "1", "Two pets.", ("pets",))
    assert scene.layout is not None
    assert scene.layout.masks == ("own-1.png", "mask2.png")


def test_a_subset_keeps_the_first_and_lays_its_settings_over(benchmark_file: Path) -> None:
    part = Benchmark.load(benchmark_file).subset("one")
    assert [scene.prompt for scene in part.scenes()] == ["beach"]
    assert part.seeds == (3,)
    assert part.methods == ("full",)
    assert part.settings["steps"] == 1
    assert part.settings["width"] == 64
    with pytest.raises(ConductorError, match="has no subset 'two'; it has: one"):
        Benchmark.load(benchmark_file).subset("two")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class_words: dog", "weight: 1.0", "line 7: 'concepts.chow': the concept has no 'class_words'"),
        ("    references: [ref.png]\n  siberian", "  siberian", "line 7: 'concepts.chow': the concept has no 'refer"),
        ("[chow, siberian]", "[chow, shiba]", "line 16: 'combinations[0].concepts[1]': there is no concept 'shiba'"),
        ("concepts: [siberian, chow]", "concepts: [chow, siberian]", "line 17: 'combinations[1]': a second one named"),
        ("steps: 2, w", "steps: 0, w", "line 5: 'steps': expected a number greater than or equal to 1, but it is 0"),
        ("{steps: 2, w", "{prompt: a, w", "line 5: 'settings': 'prompt' is no setting of a benchmark; expected some"),
        ("version: 1", "version: one", "line 2: 'version': expected a valid integer, but it is 'one'"),
        ("seeds: 0-1", "seeds: many", "'seeds': expected seeds like 3, 0-7 or 0,3,5, but it is 'many'"),
        ("name: tiny", "name: ../tiny", "line 1: 'name': "),
        ("masks: [mask1.png, mask2.png]", "masks: [mask1.png]", "line 21: 'layout': 1 masks for 2 concepts"),
        (
            'layout:\n  image: ref.png\n  prompt: "{text}"\n  masks: [mask1.png, mask2.png]\n',
            "",
            "line 19: 'prompts[0]",
        ),
        ("  - {name: beach", "  - {nam: beach", "line 19: 'prompts[0].nam' is not known; did you mean 'name'?"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(benchmark_file: Path, old: str, new: str, said: str) -> None:
    text = benchmark_file.read_text()
    assert old in text
    benchmark_file.write_text(text.replace(old, new, 1))
    with pytest.raises(DocumentError) as raised:
        Benchmark.load(benchmark_file)
    assert said in str(raised.value)


def test_missing_files_are_named_with_their_lines(benchmark_file: Path) -> None:
    Benchmark.load(benchmark_file).check_files()
    (benchmark_file.parent / "ref.png").unlink()
    (benchmark_file.parent / "chow_dog.pth").unlink()
    with pytest.raises(DocumentError) as raised:
        Benchmark.load(benchmark_file).check_files()
    lines = str(raised.value).splitlines()
    assert any("line 8: 'concepts.chow.file': there is no file" in line for line in lines)
    assert any("line 10: 'concepts.chow.references[0]': there is no file" in line for line in lines)
    assert any("line 22: 'layout.image': there is no file" in line for line in lines)


def test_the_shipped_benchmark_is_the_reports_protocol() -> None:
    benchmark = open_benchmark("mini-look-alikes")
    assert tuple(one.concepts for one in benchmark.combinations) == PAIRS
    assert benchmark.settings["steps"] == STEPS
    assert "guidance_scale" not in benchmark.settings  # the model's own, as in the report
    assert {concept.weight for concept in benchmark.concepts.values()} == {WEIGHT}
    assert len(list(benchmark.scenes())) * len(benchmark.seeds) == 10 * 5 * 8
    cpu = benchmark.subset("cpu")
    assert len(list(cpu.scenes())) * len(cpu.seeds) == 10 * 2 * 2
    ci = benchmark.subset("ci")
    assert len(list(ci.scenes())) * len(ci.seeds) == 1
    benchmark.check_files()


def test_every_shipped_benchmark_can_be_written_and_read(tmp_path: Path) -> None:
    for name in SHIPPED:
        file = tmp_path / f"{name}.yaml"
        file.write_text(text_of(name))
        assert list(open_benchmark(str(file)).scenes()) == list(open_benchmark(name).scenes())
    assert {len(scene.concepts) for scene in open_benchmark("mini-three-concepts").scenes()} == {3}


def test_the_papers_protocol_says_what_is_missing() -> None:
    paper = open_benchmark("paper")
    assert len(list(paper.scenes())) * len(paper.seeds) == 400
    assert (paper.settings["steps"], paper.settings["guidance_scale"]) == (200, 7.5)
    with pytest.raises(DocumentError) as raised:
        paper.check_files()
    lines = str(raised.value).splitlines()
    assert len(lines) == 21
    assert "'concepts.dog6.file': there is no file 'concepts/dog6.safetensors'" in lines[0]
    assert lines[-1].endswith("more files are missing")


def test_no_such_benchmark() -> None:
    with pytest.raises(ConductorError, match="expected a YAML file or one of those shipped: mini-look-alikes"):
        open_benchmark("nothing.yaml")


def test_the_sticker_world_draws_layouts_and_references(tmp_path: Path) -> None:
    benchmark = open_benchmark("mini-three-concepts").subset("ci")
    (scene,) = benchmark.scenes()
    entry = layout_of(benchmark, scene, tmp_path / "layouts")
    assert entry.masks is not None and len(entry.masks) == 3
    masks = [load_mask(benchmark.folder / name) for name in entry.masks]
    middles = [mask.getbbox()[0] + mask.getbbox()[2] for mask in masks]
    assert middles == sorted(middles)  # from left to right, as the prompt names them
    assert load_image(benchmark.folder / entry.image).size == masks[0].size
    assert layout_of(benchmark, scene, tmp_path / "layouts") == entry
    references = references_of(benchmark, "dog-noto", tmp_path / "references")
    assert len(references) == 4
    assert len({load_image(file).tobytes() for file in references}) == 4


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("backdrop: beach", "backdrop: moon", "the sticker world has no 'moon' to draw; expected one of beach"),
        ("class_words: dog", "class_words: axolotl", "the sticker world has no 'axolotl' to draw"),
    ],
)
def test_what_the_sticker_world_cannot_draw(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text_of("mini-look-alikes").replace(old, new))
    benchmark = Benchmark.load(file)
    with pytest.raises(ConductorError, match=said):
        layout_of(benchmark, next(benchmark.scenes()), tmp_path)
