"""`conductor generate`: what it writes, and what it leaves behind when something fails."""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from concept_conductor import Concept, ConceptConductorPipeline
from concept_conductor.cli import generate
from concept_conductor.concepts.formats.convert import ConceptFormat
from concept_conductor.io.files import atomic_write
from concept_conductor.recipes import model, run_folder, runner
from concept_conductor.recipes.provenance import Provenance
from concept_conductor.recipes.schema.recipe import Recipe
from tests.conftest import TINY


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


SEED_0 = {"seed-0000.png", "seed-0000-masks.png", "seed-0000-mask-1-chow_dog.png", "seed-0000-mask-2-siberian_cat.png"}
COMMON = {"grid.png", "layout.png", "run.json"}


def test_everything_is_written(conductor, recipe: Path, quick) -> None:
    outcome = conductor("generate", recipe)
    assert outcome.status == 0, outcome.err
    folder = Path("outputs/pets")
    assert names(folder) == COMMON | SEED_0 | {name.replace("0000", "0001") for name in SEED_0}
    assert [line.split()[0] for line in outcome.out.splitlines()] == [
        str(folder / "seed-0000.png"),
        str(folder / "seed-0001.png"),
    ]
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["seeds"] == {"asked": [0, 1], "finished": [0, 1]}
    assert record["settings"]["alignment"]["step_size"] == 10.0
    assert record["settings"]["concepts"][0]["weight"] == 0.7
    assert record["settings"]["width"] == 128
    assert set(record["sha256"]["files"]) == {"chow_dog.pth", "siberian_cat.pth", "ref.png", "mask1.png", "mask2.png"}
    with Image.open(folder / "grid.png") as grid, Image.open(folder / "seed-0000.png") as first:
        assert first.size == (128, 128)
        assert grid.size == (2 * (256 + 4) + 4,) * 2  # the layout and two images, twice their size to be seen
    with Image.open(folder / "seed-0000-mask-1-chow_dog.png") as mask:
        assert np.asarray(mask)[:32].all()
        assert not np.asarray(mask)[32:].any()


def test_masks_in_colours_are_large_enough_to_be_seen(conductor, recipe: Path, quick) -> None:
    assert conductor("generate", recipe, "--seeds", "0").status == 0
    with Image.open("outputs/pets/seed-0000-masks.png") as overlay:
        assert overlay.size == (512, 512)  # of an image of 128
        assert overlay.getpixel((500, 300)) == (0, 10, 20)  # outside of the masks the image is as it was
        assert overlay.getpixel((500, 100)) != (0, 10, 20)


def test_the_call_is_the_recipes(conductor, recipe: Path, quick) -> None:
    recipe.write_text(recipe.read_text() + "refinement: off\nnegative_prompt: blurred\nguidance_scale: 5\n")
    assert conductor("generate", recipe, "--seeds", "3", "--out", "here").status == 0
    (call,) = quick.calls
    assert call["prompt"] == "A dog and a cat on the beach."
    assert call["negative_prompt"] == "blurred"
    assert call["guidance_scale"] == 5
    assert call["refinement"] is None
    assert call["inversion"].cache is False
    assert [entry.weight for entry in call["concepts"]] == [0.7, 0.6]
    assert call["generator"].initial_seed() == 3
    assert call["layout"].image.mode == "RGB"
    assert len(call["layout"].masks) == 2


def test_a_png_carries_its_recipe(conductor, recipe: Path, quick) -> None:
    conductor("generate", recipe, "--seeds", "0,5", "--out", "here")
    made = Provenance.read("here/seed-0005.png")
    assert made.seed == 5
    assert made.recipe.seeds == (5,)
    assert made.recipe.steps == 2
    assert (Path("here") / made.folder).resolve() == recipe.parent
    assert made.model is not None
    assert made.versions["torch"] == torch.__version__


def test_json_says_what_was_made_and_nothing_else(conductor, recipe: Path, quick) -> None:
    outcome = conductor("generate", recipe, "--json")
    assert json.loads(outcome.out)["status"] == "finished"
    assert outcome.err == ""


def test_previews(conductor, recipe: Path, quick) -> None:
    assert conductor("generate", recipe, "--seeds", "0", "--previews", "--out", "here").status == 0
    assert {name for name in names(Path("here")) if "previews" in name} == {
        "previews/seed-0000-step-001.png",
        "previews/seed-0000-step-002.png",
    }


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted: 1 of 2 images are finished and kept in 'here'\n"),
        (torch.cuda.OutOfMemoryError("x"), 1, "1 of 2 images are finished and kept in 'here'\nthe GPU ran out of"),
    ],
)
def test_what_was_finished_is_kept(
    conductor, recipe: Path, quick, error: BaseException, status: int, said: str
) -> None:
    quick.errors[1] = error
    outcome = conductor("generate", recipe, "--out", "here")
    assert outcome.status == status
    assert said in outcome.err
    assert names(Path("here")) == COMMON | SEED_0
    record = json.loads(Path("here/run.json").read_text())
    assert record["status"] == ("interrupted" if status == 130 else "failed")
    assert record["seeds"]["finished"] == [0]


def test_nothing_is_written_where_nothing_was_finished(conductor, recipe: Path, quick) -> None:
    quick.errors[0] = KeyboardInterrupt()
    outcome = conductor("generate", recipe)
    assert outcome.status == 130
    assert "no image was finished" in outcome.err
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("file: chow_dog.pth", "file: mini/no-such"), "line 4: 'concepts[0].file': there is no shipped concept"),
        (("ref.png", "none.png"), "line 10: 'layout.image': there is no file"),
        (("file: chow_dog.pth", "file: mask1.png"), "line 4: 'concepts[0]': "),
        (("image: ref.png", "image: chow_dog.pth"), "line 10: 'layout.image': "),
        (("replaces: [dog, cat]", "replaces: [horse]"), "line 4: 'concepts[0]': the word 'horse' to replace is not in"),
        (("<siberian_cat_1>", "<cat>"), "'concepts[1]': the prompt 'A <cat> <siberian_cat_2>"),
        (("steps: 2\n", "steps: 2\nwidth: 100\n"), "line 14: 'width': width and height must be multiples of 64"),
        (("steps: 2\n", "steps: 0\n"), "line 13: 'steps': expected a number greater than or equal to 1, but it is 0"),
        (("[mask1.png, mask2.png]", "[mask1.png]"), "line 9: 'layout': 1 masks for 2 concepts"),
        (
            ("masks: [mask1.png, mask2.png]", "points: [[9, 9], [999, 9]]"),
            "line 12: 'layout.points': the point (999, 9) lies outside of the layout image of 192x192 pixels",
        ),
        (("model: ", "model: no-such-"), "there is no model 'no-such-"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(
    conductor, recipe: Path, quick, change: tuple[str, str], said: str
) -> None:
    recipe.write_text(recipe.read_text().replace(*change))
    outcome = conductor("generate", recipe, "--json")
    assert outcome.status == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not any(Path().iterdir())


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def with_code(file: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (file.with_name("it-ran"),)

    torch.save({"params": Runs()}, file)


def for_sdxl(file: Path) -> None:
    concept = Concept.load(file)
    two = replace(concept, tokens=concept.tokens * 2, text_encoders=concept.text_encoders * 2)
    ConceptFormat.mixofshow.save(two, file)


def with_nan(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    next(iter(content["params"]["unet"].values()))[0, 0] = torch.nan
    torch.save(content, file)


def long_header(file: Path) -> None:
    """Safetensors that claim a header of 100 GB."""
    file.write_bytes(struct.pack("<Q", 100 << 30) + b'{"a":1}' + b" " * 100)


def of_two_families(file: Path) -> None:
    state = {}
    for place, width in ((0, 768), (1, 2048)):
        layer = f"unet.up_blocks.1.attentions.{place}.transformer_blocks.0.attn2.to_k"
        state |= {f"{layer}.lora_A.weight": torch.ones(2, width), f"{layer}.lora_B.weight": torch.ones(4, 2)}
    save_file(state, file)


def black(file: Path) -> None:
    Image.new("L", (64, 64)).save(file)


def white(file: Path) -> None:
    Image.new("L", (64, 64), 255).save(file)


def bomb(file: Path) -> None:
    """A PNG that claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99)))):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "spoil", "said"),
    [
        ("chow_dog.pth", Path.unlink, "line 4: 'concepts[0].file': there is no file"),
        ("chow_dog.pth", truncated, "line 4: 'concepts[0]': chow_dog.pth is a damaged or truncated PyTorch file"),
        ("chow_dog.pth", with_code, "line 4: 'concepts[0]': chow_dog.pth is damaged or holds Python objects"),
        (
            "chow_dog.pth",
            for_sdxl,
            "line 4: 'concepts[0].file': the concept 'chow_dog' is made for models with 2 text encoders",
        ),
        ("chow_dog.pth", with_nan, "line 4: 'concepts[0]': chow_dog.pth has infinite or undefined numbers in"),
        ("chow_dog.pth", long_header, "line 4: 'concepts[0]': chow_dog.pth is a damaged or truncated safetensors file"),
        ("chow_dog.pth", of_two_families, "line 4: 'concepts[0]': the concept 'chow_dog' mixes families"),
        ("mask2.png", black, "line 12: 'layout.masks': mask 2 is empty at the latent resolution 16x16"),
        ("mask2.png", white, "line 12: 'layout.masks': mask 1 is wholly covered by later masks"),
        ("ref.png", truncated, "line 10: 'layout.image': 'ref.png' is damaged or incomplete"),
        ("ref.png", bomb, "line 10: 'layout.image': 'ref.png' has 3,600,000,000 pixels, but at most 67,108,864"),
    ],
)
def test_bad_files_are_one_sentence_and_leave_nothing(
    conductor, recipe: Path, quick, name: str, spoil: Callable[[Path], None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    spoil(recipe.parent / name)
    before = names(recipe.parent)
    outcome = conductor("generate", recipe.name, "--json")
    assert outcome.status == 1
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert names(recipe.parent) == before  # nor has a pickle's code run


def test_files_that_mean_different_things_by_one_placeholder(conductor, recipe: Path, quick) -> None:
    for name in ("a", "b"):
        save_file({"<mug>": torch.randn(2, 32)}, recipe.parent / f"{name}.safetensors")
    recipe.write_text(recipe.read_text().replace("file: chow_dog.pth", "file: [a.safetensors, b.safetensors]"))
    outcome = conductor("generate", recipe, "--json")
    assert outcome.status == 1
    assert "line 4: 'concepts[0]': two of the files have different vectors for the placeholder '<mug>'" in outcome.err
    assert len(outcome.err.splitlines()) == 1 and not any(Path().iterdir())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("file: chow_dog.pth", "file: user/not-there"), "line 4: 'concepts[0].file': there is no concept file '"),
        ((f"model: {TINY}", "model: user/not-there"), "the model 'user/not-there' could not be loaded"),
    ],
)  # fmt: skip
def test_a_hub_out_of_reach(
    conductor, recipe: Path, change: tuple[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    recipe.write_text(recipe.read_text().replace(*change))
    outcome = conductor("generate", recipe, "--json")
    assert outcome.status == 1
    assert said in outcome.err and ("give its path" in outcome.err or "a diffusers folder" in outcome.err)
    assert len(outcome.err.splitlines()) == 1 and not any(Path().iterdir())


@pytest.fixture
def really(tiny_pipe: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch) -> ConceptConductorPipeline:
    """The tiny model itself, loaded already."""
    monkeypatch.setattr(model, "load_pipeline", lambda *_, **__: tiny_pipe)
    return tiny_pipe


def test_weights_that_match_no_layer(conductor, recipe: Path, really: ConceptConductorPipeline) -> None:
    concept = Concept.load(recipe.parent / "chow_dog.pth")
    name, update = next(iter(concept.unet.items()))
    stray = replace(concept, unet={"down_blocks.9.attn1.to_q": update})
    ConceptFormat.mixofshow.save(stray, recipe.parent / "chow_dog.pth")
    outcome = conductor("generate", recipe, "--json")
    assert outcome.status == 1
    assert "'down_blocks.9.attn1.to_q', but no U-Net of SD1.5, SD2.1 or SDXL has a linear layer" in outcome.err
    assert not any(Path().iterdir())

    wide = replace(concept, unet={name: update._replace(down=torch.ones(4, 99))})
    ConceptFormat.mixofshow.save(wide, recipe.parent / "chow_dog.pth")
    shape = conductor("generate", recipe, "--json")
    assert shape.status == 1
    assert f"weights of '{name}' are made for a layer of shape 16x99 but the model's is 16x16" in shape.err
    for failed in (outcome, shape):  # recipe, line and field, and the file
        assert "pets.yaml, line 4: 'concepts[0]" in failed.err and "chow_dog.pth" in failed.err
        assert len(failed.err.splitlines()) == 1


def test_memory_that_runs_out_in_the_unet(
    conductor, recipe: Path, really: ConceptConductorPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(really.unet, "forward", full)
    outcome = conductor("generate", recipe, "--json")
    assert outcome.status == 1
    assert outcome.err.startswith("the GPU ran out of memory; set 'paths_per_forward: 1' in the recipe")
    assert len(outcome.err.splitlines()) == 1
    assert not any(Path().iterdir())


@pytest.mark.parametrize("file", ["seed-0001.png", "grid.png"])
def test_a_full_disk_keeps_what_was_finished(
    conductor, recipe: Path, quick, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = run_folder.save_png

    def until_full(image: Image.Image, path: Path, metadata: dict[str, str] | None = None) -> Path:
        if path.name != file:
            return save(image, path, metadata)
        with atomic_write(path) as stream:
            stream.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder, "save_png", until_full)
    outcome = conductor("generate", recipe, "--out", "here")
    assert outcome.status == 1
    assert f"the disk is full: 'here/{file}' could not be written; free some space" in outcome.err
    assert file not in names(Path("here"))
    assert not any(name.endswith(".part") for name in names(Path("here")))
    assert json.loads(Path("here/run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("seeds", ["", "a", "3-1", "0-99999999", "-1"])
def test_bad_seeds(conductor, recipe: Path, seeds: str) -> None:
    outcome = conductor("generate", recipe, f"--seeds={seeds}")
    assert outcome.status == 1
    assert outcome.err.startswith("--seeds: expected")


def test_a_file_in_place_of_the_folder(conductor, recipe: Path) -> None:
    outcome = conductor("generate", recipe, "--out", recipe)
    assert outcome.status == 1
    assert "is a file, or lies in one; expected a folder" in outcome.err


@pytest.mark.parametrize("out", ["/dev/null/out", "/proc/out", "a" * 300])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_loaded(
    conductor, recipe: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.setattr(model, "load_pipeline", lambda *_, **__: pytest.fail("the model is loaded"))
    for command in ("generate", recipe), ("layout", "show", recipe):
        outcome = conductor(*command, "--out", out)
        assert outcome.status == 1
        assert len(outcome.err.splitlines()) == 1 and out in outcome.err and "choose another" in outcome.err


def test_a_deleted_working_folder_is_told(conductor, recipe: Path, quick) -> None:
    Path.cwd().rmdir()
    for command in ("generate", recipe), ("layout", "show", recipe):
        outcome = conductor(*command)
        assert outcome.status == 1
        assert outcome.err == "the working folder is gone; change to one that is there and run it again\n"
    assert not quick.calls


def test_runs_into_one_folder_are_listed_together(conductor, recipe: Path, quick) -> None:
    for seeds in ("0-1", "1-2"):
        outcome = conductor("generate", recipe, "--seeds", seeds, "--out", "here", "--json")
        assert [entry["file"] for entry in json.loads(outcome.out)["images"]] == [
            f"seed-000{seed}.png" for seed in seeds.split("-")
        ]
    record = json.loads(Path("here/run.json").read_text())
    assert [entry["file"] for entry in record["images"]] == ["seed-0000.png", "seed-0001.png", "seed-0002.png"]
    assert [run["seeds"]["asked"] for run in record["other_runs"].values()] == [[0, 1]]


@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda", "there is no CUDA device here"), ("cuda:7", "there is no CUDA device here"), ("mps", "there is no MPS")],
)
def test_devices_that_are_not_here(
    conductor, recipe: Path, monkeypatch: pytest.MonkeyPatch, device: str, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(model, "load_model", lambda *_, **__: pytest.fail("the model is loaded"))
    recipe.write_text(recipe.read_text() + f"device: {device}\n")
    outcome = conductor("generate", recipe, "--json")
    assert outcome.status == 1 and len(outcome.err.splitlines()) == 1
    assert f"pets.yaml, line 16: 'device': {said}" in outcome.err


def test_the_real_pipeline_through_the_python_face(recipe: Path, tiny_pipe: ConceptConductorPipeline) -> None:
    chosen = generate.with_seeds(Recipe.load(recipe), "4")
    chosen = chosen.model_copy(update={"inversion": chosen.inversion.model_copy(update={"steps": 2})})
    steps: list[tuple[bool, int]] = []
    (image,) = runner.generate(chosen, tiny_pipe, lambda report: steps.append((report.preview is None, report.step)))
    assert steps == [(True, 1), (True, 2), (False, 1), (False, 2)]  # inverted, then denoised
    assert image.seed == 4
    assert image.image.size == (128, 128)
    assert image.masks.shape[0] == 2
    assert image.provenance.model is None


def test_loading_a_model(recipe: Path) -> None:
    pipe = model.load_pipeline(TINY, Recipe.load(recipe))
    assert (pipe.device.type, pipe.dtype) == ("cpu", torch.float32)
    with pytest.raises(ValueError, match="there is no CUDA device here"):
        model.load_pipeline(TINY, Recipe.load(recipe).model_copy(update={"device": "cuda"}))
