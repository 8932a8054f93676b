"""The public contract (API.md) on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.scenes import random_concept
from concept_conductor import (
    Alignment,
    Concept,
    ConceptConductorPipeline,
    ConceptPrompt,
    ConductorError,
    FamilyError,
    Injection,
    Inversion,
    Layout,
    Placement,
    Refinement,
)
from tests.compare import ROUNDING, mask_iou, relative
from tests.conftest import SMALL_LAYER, TINY, small_unet, tiny_image


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("refinement", [None, Refinement()])
def test_an_image_is_the_same_alone_and_in_a_batch(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], refinement: Refinement | None
) -> None:
    call = {**tiny_call, "refinement": refinement}
    batch = tiny_pipe(**call, num_images_per_prompt=2, generator=[generator(s) for s in (1, 2)])
    assert batch.images.shape == (2, 4, 16, 16) and batch.masks.shape == (2, 2, 16, 16)
    assert batch.masks.dtype == torch.bool
    for index, seed in enumerate((1, 2)):
        alone = tiny_pipe(**call, generator=generator(seed))
        assert relative(batch.images[index], alone.images[0]) < 1e-4
        assert mask_iou(batch.masks[index], alone.masks[0]) >= 0.98


@pytest.mark.parametrize("paths_per_forward", [1, 2])
def test_paths_per_forward_changes_nothing(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], paths_per_forward: int
) -> None:
    whole = tiny_pipe(**tiny_call, generator=generator(0))
    split = tiny_pipe(**tiny_call, generator=generator(0), paths_per_forward=paths_per_forward)
    assert relative(split.images, whole.images) < 1e-4
    assert mask_iou(split.masks, whole.masks) >= 0.98


@pytest.mark.parametrize("count", [1, 3, 8])
def test_any_number_of_concepts(
    tiny_pipe: ConceptConductorPipeline, tiny_concepts: dict[str, ConceptPrompt], tiny_call: dict[str, Any], count: int
) -> None:
    entries = (list(tiny_concepts.values()) * 3)[:count]
    masks = []
    for index in range(count):
        mask = np.zeros((128, 128), dtype=bool)
        mask[:, index * 128 // count : (index + 1) * 128 // count] = True
        masks.append(mask)
    layout = Layout(tiny_image("ref"), "Things in the street.", masks=masks)
    out = tiny_pipe(**{**tiny_call, "concepts": entries, "layout": layout, "num_inference_steps": 5})
    assert out.masks.shape == (1, count, 16, 16)
    assert torch.isfinite(out.images).all()


def test_without_concepts_it_is_plain_stable_diffusion(tiny_pipe: ConceptConductorPipeline) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    plain = StableDiffusionPipeline(
        **{name: part for name, part in tiny_pipe.components.items() if name != "scheduler"},
        scheduler=DDIMScheduler.from_config(tiny_pipe.scheduler.config),
        requires_safety_checker=False,
    )
    plain.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 16, 16, generator=generator(0))
    call = {"prompt": "a dog", "negative_prompt": "a cat", "num_inference_steps": 5, "latents": latents}
    expected = plain(**call, output_type="latent").images
    assert relative(tiny_pipe(**call, output_type="latent").images, expected) < 1e-5


def test_two_concepts_with_equal_placeholder_names_do_not_collide(
    tiny_pipe: ConceptConductorPipeline, tiny_concepts: dict[str, ConceptPrompt], tiny_call: dict[str, Any]
) -> None:
    def renamed(name: str) -> ConceptPrompt:
        concept = tiny_concepts[name].concept
        tokens = dict(zip(("<a>", "<b>"), concept.tokens[0].values(), strict=True))
        own = Concept(name, (tokens,), concept.text_encoders, concept.unet)
        return ConceptPrompt(own, "A <a> <b> and a <a> <b> on the beach.")

    same_names = {**tiny_call, "concepts": [renamed("chow_dog"), renamed("siberian_cat")]}
    own, same = (tiny_pipe(**call, generator=generator(0)).images for call in (tiny_call, same_names))
    assert relative(same, own) < ROUNDING


def test_every_part_of_the_method_has_an_effect_and_a_switch(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]
) -> None:
    whole = tiny_pipe(**tiny_call, generator=generator(0)).images
    for off in (
        {"alignment": None},
        {"refinement": None},
        {"injection": None},
        {"injection": Injection(self_attention=False)},
        {"injection": Injection(cross_attention=False)},
        {"guidance_scale": 1.0},
        {"negative_prompt": "a red robot"},
        {"alignment": Alignment(concept_weight=0.0)},
    ):
        assert relative(tiny_pipe(**{**tiny_call, **off}, generator=generator(0)).images, whole) > 1e-2, off


def test_without_injection_the_concepts_cannot_matter(
    tiny_pipe: ConceptConductorPipeline, tiny_concepts: dict[str, ConceptPrompt], tiny_call: dict[str, Any]
) -> None:
    off = {**tiny_call, "injection": None, "alignment": Alignment(concept_weight=0.0), "refinement": None}
    other = {**off, "concepts": [tiny_concepts["red_robot"], tiny_concepts["chow_dog"]]}
    one, two = (tiny_pipe(**call, generator=generator(0)).images for call in (off, other))
    assert relative(one, two) < ROUNDING


def test_layout_from_points(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    layout = Layout(tiny_image("ref"), "A dog and a cat in the street.", points=[(40, 100), (150, 100)])
    out = tiny_pipe(**{**tiny_call, "layout": layout, "refinement": None})
    left, right = out.masks[0]
    assert left[int(100 / 192 * 16), int(40 / 192 * 16)] and right[int(100 / 192 * 16), int(150 / 192 * 16)]
    assert not (left & right).any()


def test_layout_from_boxes(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    layout = Layout(tiny_image("ref"), "A dog and a cat in the street.", boxes=[(0, 48, 96, 192), (96, 48, 192, 192)])
    out = tiny_pipe(**{**tiny_call, "layout": layout, "refinement": None, "alignment": None})
    left, right = out.masks[0]
    assert left.any() and right.any()
    assert not left[:, 8:].any() and not right[:, :8].any()
    assert not left[:4].any() and not right[:4].any()


def test_output_types(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    call = {**tiny_call, "num_inference_steps": 2, "num_images_per_prompt": 2, "alignment": None, "refinement": None}
    results = {
        kind: tiny_pipe(**{**call, "output_type": kind}, generator=generator(0)).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert [image.size for image in results["pil"]] == [(128, 128)] * 2
    assert results["np"].shape == (2, 128, 128, 3) and results["pt"].shape == (2, 3, 128, 128)
    assert results["latent"].shape == (2, 4, 16, 16)
    assert results["np"].min() >= 0 and results["np"].max() <= 1
    assert np.allclose(results["np"].transpose(0, 3, 1, 2), results["pt"].numpy())
    assert np.abs(np.stack([np.asarray(i) for i in results["pil"]]) / 255 - results["np"]).max() <= 0.5 / 255 + 1e-6
    images, masks = tiny_pipe(**call, return_dict=False)
    assert len(images) == 2 and masks.shape == (2, 2, 16, 16)


def test_sizes_that_are_not_square(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    out = tiny_pipe(**{**tiny_call, "output_type": "pil", "num_inference_steps": 2}, height=192, width=128)
    assert out.images[0].size == (128, 192) and out.masks.shape == (1, 2, 24, 16)


def test_callbacks_see_every_step_and_can_change_latents(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]
) -> None:
    seen: list[tuple[int, int]] = []

    def watch(_pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        seen.append((step, timestep))
        return [None, {}, {"latents": tensors["latents"]}][step % 3]  # type: ignore[list-item]

    plain = tiny_pipe(**tiny_call, generator=generator(0)).images
    watched = tiny_pipe(**tiny_call, generator=generator(0), callback_on_step_end=watch).images
    assert relative(watched, plain) < ROUNDING
    assert seen == [(0, 801), (1, 601), (2, 401), (3, 201), (4, 1)]

    zero = tiny_pipe(**tiny_call, callback_on_step_end=lambda *a: {"latents": torch.zeros_like(a[3]["latents"])})
    assert not zero.images.any()


def test_one_generator_draws_all_images_in_order(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]
) -> None:
    latents = torch.randn(2, 4, 16, 16, generator=generator(3))
    call = {**tiny_call, "num_inference_steps": 2, "refinement": None}
    drawn = tiny_pipe(**call, num_images_per_prompt=2, generator=generator(3)).images
    assert relative(tiny_pipe(**call, num_images_per_prompt=2, latents=latents).images, drawn) < ROUNDING


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(tiny_call: dict[str, Any], dtype: torch.dtype) -> None:
    pipe = ConceptConductorPipeline.from_pretrained(TINY, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    out = pipe(**{**tiny_call, "num_inference_steps": 2, "output_type": "np"})
    assert pipe.unet.dtype == dtype and np.isfinite(out.images).all()


def test_placement_keeps_the_background_to_the_pixel(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]
) -> None:
    original = tiny_image("init").convert("RGB").resize((128, 128))
    mask = np.asarray(tiny_image("init_mask").convert("L").resize((128, 128))) > 127
    for how in ("inversion", "noise"):
        placement = Placement(tiny_image("init"), tiny_image("init_mask"), background=how)
        out = tiny_pipe(**{**tiny_call, "output_type": "np"}, placement=placement)
        outside = np.asarray(original)[~mask] / 255
        assert np.abs(out.images[0][~mask] - outside).max() < 1e-6
        assert np.abs(out.images[0][mask] - np.asarray(original)[mask] / 255).max() > 0.1


def test_a_compiled_unet_works(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    """A small one: dynamo takes its time with every layer."""
    layers = {"layout_layer": SMALL_LAYER, "mask_layer": SMALL_LAYER}
    components = {**tiny_pipe.components, "unet": small_unet()}
    pipe = ConceptConductorPipeline(**components, defaults=tiny_pipe.defaults.overridden(layers))
    pipe.set_progress_bar_config(disable=True)
    call = {**tiny_call, "concepts": [random_concept(pipe, seed) for seed in (0, 1)]}
    plain = pipe(**call, generator=generator(0)).images
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)  # dynamo itself, in one piece
    assert relative(pipe(**call, generator=generator(0)).images, plain) < 1e-4


def test_sliced_attention_gives_the_same_image(tiny_call: dict[str, Any]) -> None:
    pipe = ConceptConductorPipeline.from_pretrained(TINY, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    call = {**tiny_call, "num_inference_steps": 2}
    plain = pipe(**call, generator=generator(0)).images
    pipe.enable_attention_slicing("max")
    assert relative(pipe(**call, generator=generator(0)).images, plain) < 1e-4


def test_fused_projections_are_refused(tiny_call: dict[str, Any]) -> None:
    """They go past the layers that concepts' weights are in."""
    pipe = ConceptConductorPipeline.from_pretrained(TINY, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(ConductorError, match=r"call unfuse_qkv_projections\(\) first"):
        pipe(**tiny_call)
    pipe.unfuse_qkv_projections(vae=False)
    pipe(**{**tiny_call, "num_inference_steps": 1})


def test_the_safety_checker_is_honoured(tiny_call: dict[str, Any]) -> None:
    class Refuses(torch.nn.Module):
        dtype, device = torch.float32, torch.device("cpu")

        def forward(self, images: np.ndarray, clip_input: torch.Tensor) -> tuple[np.ndarray, list[bool]]:
            return images, [True, False][: len(images)]

    class Features:
        def __call__(self, shown: list[Image.Image], return_tensors: str) -> Any:
            return type("Features", (), {"pixel_values": torch.zeros(len(shown), 3, 8, 8)})()

    pipe = ConceptConductorPipeline.from_pretrained(TINY, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    pipe.safety_checker, pipe.feature_extractor = Refuses(), Features()
    call = {**tiny_call, "num_inference_steps": 2, "num_images_per_prompt": 2}
    for kind in ("pil", "np", "pt"):
        out = pipe(**{**call, "output_type": kind})
        assert out.nsfw_content_detected == [True, False]
        assert not np.asarray(out.images[0]).any() and np.asarray(out.images[1]).any()


class TestBadInput:
    """One clear sentence each."""

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"height": 100}, "multiples of 64 for this model, but 128x100 was asked for; the nearest is 128x128"),
            (
                {"num_inference_steps": 0},
                "'num_inference_steps': expected a number greater than or equal to 1, but it is 0",
            ),
            ({"guidance_scale": 0.5}, "'guidance_scale': expected a number greater than or equal to 1"),
            ({"paths_per_forward": 0}, "'paths_per_forward': expected a number greater than or equal to 1"),
            ({"num_images_per_prompt": 0}, "'num_images_per_prompt': expected a number greater than or equal to 1"),
            ({"layout": None}, "concepts need a layout"),
            ({"latents": torch.zeros(1, 4, 8, 8)}, r"latents must have the shape \(1, 4, 16, 16\)"),
            ({"generator": [torch.Generator()] * 2}, "one for each of 1 images, not 2"),
            ({"output_type": "jpg"}, "'output_type': expected 'pil', 'np', 'pt' or 'latent', but it is 'jpg'"),
            ({"callback_on_step_end_tensor_inputs": ["noise"]}, "can be given latents, but 'noise' was asked for"),
            ({"inversion": Inversion(steps=7, cache=False)}, r"does not visit every timestep .* values that do: 5"),
        ],
    )
    def test_calls(
        self, tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ConductorError, match=message):
            tiny_pipe(**{**tiny_call, **changes})

    @pytest.mark.parametrize(
        ("layout", "message"),
        [
            (lambda: Layout(tiny_image("ref"), "x", masks=[tiny_image("mask1")]), "1 masks for 2 concepts"),
            (lambda: Layout(tiny_image("ref"), "x", points=[(1, 1)] * 3), "3 points for 2 concepts"),
            (lambda: Layout(tiny_image("ref"), "x", points=[(1, 1), (500, 1)]), r"\(500, 1\) lies outside"),
            (lambda: Layout(tiny_image("ref"), "x", points=[(1, 1), (2, 2)]), "falls on the same region"),
            (
                lambda: Layout(tiny_image("ref"), "x", masks=[tiny_image("mask1"), Image.new("L", (9, 9))]),
                "mask 2 is empty",
            ),
            (lambda: Layout(tiny_image("ref"), "x", masks=[tiny_image("mask1")] * 2), "mask 1 is wholly covered"),
            (lambda: Layout(tiny_image("ref"), "x"), "either masks= or points= or boxes="),
            (lambda: Layout(tiny_image("ref"), "x", boxes=[(1, 1, 60, 60)]), "1 boxes for 2 concepts"),
            (lambda: Layout(tiny_image("ref"), "x", boxes=[(9, 9, 9, 60), (9, 9, 60, 60)]), r"box 1 .* is empty"),
            (
                lambda: Layout(tiny_image("ref"), "x", boxes=[(0, 0, 60, 60), (9, 9, 193, 60)]),
                "box 2 .* reaches out of",
            ),
            (
                lambda: Layout(tiny_image("ref"), "x", boxes=[(0, 0, 60, 60), (0, 0, 90, 90)]),
                "share 100% of the smaller",
            ),
            (lambda: Layout("ref.png", "x", masks=[]), "there is no image 'ref.png'"),  # type: ignore[arg-type]
        ],
    )
    def test_layouts(
        self, tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], layout: Any, message: str
    ) -> None:
        with pytest.raises(ConductorError, match=message):
            tiny_pipe(**{**tiny_call, "layout": layout()})

    def test_a_concept_of_another_family(self, tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
        tokens = {"<a>": torch.zeros(70, 768)}
        sdxl = ConceptPrompt(Concept("big", (tokens, tokens)), "a <a>")
        with pytest.raises(FamilyError, match="two|2 text encoders \\(SDXL\\)"):
            tiny_pipe(**{**tiny_call, "concepts": [sdxl, sdxl]})

    def test_models_that_are_none(self, tmp_path: Path) -> None:
        with pytest.raises(ConductorError, match="no diffusers folder"):
            ConceptConductorPipeline.from_pretrained(tmp_path)
        with pytest.raises(ConductorError, match="there is no checkpoint file"):
            ConceptConductorPipeline.from_single_file(tmp_path / "model.safetensors")
