"""A look inside changes nothing, costs nothing when off, and shows what was there."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from concept_conductor import Alignment, ConceptConductorPipeline, ConductorError, Injection, Layout, Refinement, Trace
from concept_conductor.denoiser import attention
from concept_conductor.errors import NonFiniteError
from concept_conductor.method import sampling
from concept_conductor.method.sampling import Step, sample
from concept_conductor.pipeline.inputs import Prompts, initial_latents, prepare_inputs, resolve_settings
from concept_conductor.settings import Inversion
from concept_conductor.tracing.traced_paths import traced_paths_of
from tests.compare import ROUNDING, mask_iou, relative
from tests.conftest import TINY_XL, tiny_image

STEPS = 2
"""Both aligned, the last refines masks."""
PATHS = ("reference", "base", "concept-1-chow_dog", "concept-2-siberian_cat")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def call(tiny_call: dict[str, Any]) -> dict[str, Any]:
    return {**tiny_call, "num_inference_steps": STEPS}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"paths_per_forward": 1, "num_images_per_prompt": 2},
        {"injection": None, "refinement": None},
        {"injection": Injection(noise=True), "guidance_scale": 1.0},
    ],
)
def test_no_number_of_the_result_changes(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], changes: dict[str, Any], tmp_path: Path
) -> None:
    call = call | changes
    plain, generator = tiny_pipe(**call, generator=seeded()), seeded()
    state = torch.get_rng_state()
    traced = tiny_pipe(**call, generator=generator, trace=tmp_path / "trace")
    assert relative(traced.images, plain.images) < ROUNDING
    assert mask_iou(traced.masks, plain.masks) >= 0.98
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_recorded_when_off(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    compute = attention.attention_probabilities

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return compute(*arguments)

    monkeypatch.setattr(attention, "attention_probabilities", counted)
    tiny_pipe(**call)
    refined = tiny_pipe.defaults.refinement.refined_steps(STEPS)
    assert calls == len(refined)  # refinement's own
    tiny_pipe(**call | {"refinement": None})
    assert calls == len(refined)
    tiny_pipe(**call, trace=tmp_path / "trace")
    assert calls == len(refined) + 4 * STEPS  # two layers of all paths and of the reference

    def never(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(sampling, "AttentionRecord", never)
    monkeypatch.setattr(sampling, "Snapshot", never)
    tiny_pipe(**call)


@pytest.fixture
def steps(tiny_pipe: ConceptConductorPipeline, call: dict[str, Any]) -> Iterator[list[Step]]:
    """A run's steps, looked into at the odd ones."""
    backbone = tiny_pipe.backbone
    settings = resolve_settings(
        backbone.defaults, steps=5, guidance_scale=7.5, alignment=Alignment(), injection=Injection(),
        refinement=Refinement(start=0.6, end=0.6), inversion=call["inversion"], paths_per_forward=2,
    )  # fmt: skip
    noise = initial_latents(backbone, (128, 128), 2, seeded(), None)
    inputs = prepare_inputs(
        backbone, settings, Prompts(call["prompt"]), size=(128, 128), latents=noise, concepts=call["concepts"],
        layout=call["layout"],
    )  # fmt: skip
    with closing(sample(backbone, inputs, settings, traced={1, 3})) as running:
        yield list(running)


def test_steps_carry_what_was_asked_for(tiny_pipe: ConceptConductorPipeline, steps: list[Step]) -> None:
    assert [step.snapshot is not None for step in steps] == [False, True, False, True, False]
    assert [step.refined for step in steps] == [False, False, False, True, False]
    for step in (steps[1], steps[3]):
        assert step.snapshot is not None
        for seen, paths, images in ((step.snapshot, 3, 2), (step.snapshot.reference, 1, 1)):
            assert seen is not None
            assert seen.clean.shape == (paths, images, 4, 16, 16)
            assert seen.self_attention.shape == (paths, images, 64, 64)
            assert seen.cross_attention.shape == (paths, images, 64, 77)
            assert torch.allclose(seen.self_attention.sum(-1), torch.ones(()))
            assert torch.allclose(seen.cross_attention.sum(-1), torch.ones(()))
    assert steps[3].masks.own is not None and steps[3].masks.base is not None


def test_the_clean_image_is_the_schedulers(tiny_pipe: ConceptConductorPipeline, steps: list[Step]) -> None:
    """DDIM without noise: the next latents follow from x0 and the latents before, which x0 was predicted from."""
    step = steps[3]
    assert step.snapshot is not None
    alphas = tiny_pipe.scheduler.alphas_cumprod
    now, later = alphas[step.timestep], alphas[steps[4].timestep]
    clean = step.snapshot.clean[0]
    # z' = sqrt(a') x0 + sqrt(1 - a') eps and z = sqrt(a) x0 + sqrt(1 - a) eps, z being the latents of the step before
    noise = (step.latents - later.sqrt() * clean) / (1 - later).sqrt()
    before = now.sqrt() * clean + (1 - now).sqrt() * noise
    assert (before - steps[2].latents).norm() / before.norm() < 1e-4  # step 3 is not aligned


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_all_is_written(tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "trace"
    tiny_pipe(**call | {"num_inference_steps": 5}, trace=Trace(folder, every=2))
    refined = tiny_pipe.defaults.refinement.refined_steps(5)
    assert refined == {1, 2}
    seen = sorted({0, 2, 4} | refined)
    per_step = {
        f"{path}/step-{step:03d}-{what}.png"
        for path in PATHS
        for step in seen
        for what in ("clean", "clusters", "words")
    }
    masks = {f"masks/step-{step:03d}-{path}.png" for step in refined for path in PATHS[2:]}
    common = {"index.html", "trace.json", "contact-sheet.png", "run.gif", "layout-loss.png"}
    assert names(folder) == per_step | masks | common
    assert [place.name for place in tmp_path.iterdir()] == ["trace"]
    for file in folder.rglob("*.png"):
        with Image.open(file) as image:
            image.load()
            assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
    with Image.open(folder / "run.gif") as animation:
        assert animation.n_frames == len(seen)
    record = json.loads((folder / "trace.json").read_text())
    assert [step["index"] for step in record["steps"]] == list(range(5))
    assert [len(step["layout_loss"] or ()) for step in record["steps"]] == [3, 3, 3, 0, 0]
    assert [path["folder"] for path in record["paths"]] == list(PATHS)
    foreground = [[word["text"] for word in path["words"] if word["foreground"]] for path in record["paths"]]
    assert foreground[:2] == [["dog", "cat"]] * 2
    assert foreground[2] == ["<chow_dog_1> <chow_dog_2>"] * 2


def data_of(page: str) -> list[dict[str, Any]]:
    found = re.findall(r'<script type="application/json" data-step="\d+">(.*?)</script>', page, re.DOTALL)
    return [json.loads(text) for text in found]


def test_the_page_needs_nothing_else(tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path) -> None:
    prompt = call["prompt"] + " </script><script>alert('&')</script>"
    concepts = [entry.__class__(entry.concept, entry.prompt + "<!-- ") for entry in call["concepts"]]
    tiny_pipe(**call | {"prompt": prompt, "concepts": concepts}, trace=tmp_path / "trace")
    page = (tmp_path / "trace" / "index.html").read_text()
    assert "alert('&')</script>" not in page
    assert set(re.findall(r"https?://[^\"' )]*", page)) == {"http://www.w3.org/2000/svg"}
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    steps = data_of(page)
    assert len(steps) == STEPS
    for step in steps:
        assert len(step["paths"]) == 3 and step["reference"] is not None and len(step["masks"]) == 2
        for row in (step["reference"], *step["paths"]):
            assert all(row[part].startswith("data:image/") for part in ("clean", "clusters", "heat"))
    assert [("own" in step) for step in steps] == [
        index in tiny_pipe.defaults.refinement.refined_steps(STEPS) for index in range(STEPS)
    ]


@pytest.mark.parametrize(
    ("changes", "paths"),
    [
        ({"alignment": None}, PATHS[1:]),
        ({"injection": None, "refinement": None}, PATHS[:2]),
        ({"concepts": ()}, PATHS[:2]),
        ({"concepts": (), "layout": None}, PATHS[1:2]),
        ({"num_inference_steps": 1, "refinement": None}, PATHS),
        ({"height": 192}, PATHS),
    ],
)
def test_parts_that_are_off(
    tiny_pipe: ConceptConductorPipeline,
    call: dict[str, Any],
    tmp_path: Path,
    changes: dict[str, Any],
    paths: tuple[str, ...],
) -> None:
    folder = tmp_path / "trace"
    tiny_pipe(**{**call, "num_inference_steps": 2, **changes}, trace=folder)
    assert {place.name for place in folder.iterdir() if place.is_dir()} - {"masks"} == set(paths)
    assert {"index.html", "contact-sheet.png", "run.gif"} <= names(folder)


def test_sdxl(tiny_xl: ConceptConductorPipeline, tmp_path: Path) -> None:
    call: dict[str, Any] = {
        "prompt": "A dog on the beach.",
        "layout": Layout(tiny_image("ref", TINY_XL), "A dog in the street.", masks=[]),
        "num_inference_steps": 2,
        "inversion": Inversion(steps=2, cache=False),
        "output_type": "latent",
    }
    plain = tiny_xl(**call, generator=seeded()).images
    traced = tiny_xl(**call, generator=seeded(), trace=Trace(tmp_path / "trace", foreground="dog")).images
    assert relative(traced, plain) < ROUNDING
    record = json.loads((tmp_path / "trace" / "trace.json").read_text())
    assert [[word["text"] for word in path["words"] if word["foreground"]] for path in record["paths"]] == [["dog"]] * 2


def test_a_run_whose_numbers_overflow_is_shown_too(
    tiny_pipe: ConceptConductorPipeline, call: dict[str, Any], tmp_path: Path
) -> None:
    """It ends with an error, and its trace up to the step that overflowed is what one wants to look into."""
    forwards = 0

    def overflow(_module: object, _args: object, output: Any) -> Any:
        nonlocal forwards
        forwards += 1
        return (output[0] * (torch.nan if forwards == 2 else 1),)

    plain = {"prompt": call["prompt"], "num_inference_steps": 4, "output_type": "latent"}
    handle = tiny_pipe.unet.register_forward_hook(overflow)
    try:
        with pytest.raises(NonFiniteError, match="step 2 of 4"):
            tiny_pipe(**plain, trace=tmp_path / "trace")
    finally:
        handle.remove()
    record = json.loads((tmp_path / "trace" / "trace.json").read_text())
    assert [step["index"] for step in record["steps"]] == [0, 1]
    assert len(data_of((tmp_path / "trace" / "index.html").read_text())) == 2


def test_a_concepts_name_is_text(tiny_pipe: ConceptConductorPipeline, call: dict[str, Any]) -> None:
    (entry, *_) = call["concepts"]
    named = replace(entry, concept=replace(entry.concept, name="dog\x1b]0;owned\x07\nforged/../𠀀" + "𠀀" * 99))
    _, paths = traced_paths_of(Trace("nowhere"), tiny_pipe.backbone, call["prompt"], [named], None)
    assert paths[1].name.startswith(r"concept 1, dog\x1b]0;owned\x07\nforged/../")
    assert re.fullmatch(r"concept-1-dog-+0-owned-+forged-+𠀀+", paths[1].folder)
    assert len(f"step-000-{paths[1].folder}-clusters.png".encode()) <= 255  # what file systems have


class TestBadInput:
    """One clear sentence each, and nothing left behind."""

    def test_settings(self) -> None:
        with pytest.raises(ConductorError, match="looks at every 1, 2, 3"):
            Trace("trace", every=0)
        with pytest.raises(ConductorError, match="2 to 24 clusters, but clusters=25"):
            Trace("trace", clusters=25)

    def test_a_layer_that_is_not_there(
        self, call: dict[str, Any], tiny_pipe: ConceptConductorPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        layer = "up_blocks.2.attentions.1.transformer_blocks.0.attn1"
        monkeypatch.setattr(tiny_pipe, "defaults", tiny_pipe.defaults.overridden({"word_layer": layer}))
        with pytest.raises(ConductorError, match="is no cross-attention layer .* such as 'up_blocks.1.*attn2'"):
            tiny_pipe(**call, trace=tmp_path / "trace")
        tiny_pipe(**call | {"num_inference_steps": 1})  # which no one needs without a trace

    def test_a_safety_checker_would_be_passed_by(
        self, call: dict[str, Any], tiny_pipe: ConceptConductorPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Checker(torch.nn.Module):
            dtype, device = torch.float32, torch.device("cpu")

        monkeypatch.setattr(tiny_pipe, "safety_checker", Checker())
        with pytest.raises(ConductorError, match="no trace with this checkpoint: its safety checker"):
            tiny_pipe(**call, trace=tmp_path / "trace")

    @pytest.mark.parametrize("file", ["step-001-clean.png", "run.gif"])
    def test_a_full_disk(
        self,
        call: dict[str, Any],
        tiny_pipe: ConceptConductorPipeline,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        file: str,
    ) -> None:
        save = Image.Image.save

        def until_full(image: Image.Image, where: Any, *args: object, **options: object) -> None:
            if str(where).endswith(file):
                raise OSError(errno.ENOSPC, "No space left on device")
            save(image, where, *args, **options)

        def full(path: Path, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Image.Image, "save", until_full)
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(ConductorError, match=rf"the disk is full: '{tmp_path}/trace' could not be written"):
            tiny_pipe(**call, trace=tmp_path / "trace")
        assert not any(tmp_path.iterdir())
