"""What SDXL has that SD1.5 has not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

from concept_conductor import (
    Concept,
    ConceptConductorPipeline,
    ConceptPrompt,
    ConductorError,
    FamilyError,
    Inversion,
    Layout,
)
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.backbones.sdxl import SDXLBackbone
from concept_conductor.denoiser.layers import attention_layers, cross_attention_names
from tests.compare import ROUNDING, relative
from tests.conftest import TINY_XL, tiny_image

DOG = "A <chow_dog_1> <chow_dog_2> on the beach."


def noise(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def dog() -> Concept:
    return Concept.load(TINY_XL / "chow_dog.pth")


@pytest.fixture(scope="module")
def call(dog: Concept, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of a two-step run of one concept."""
    return {
        "prompt": "A dog on the beach.",
        "concepts": [ConceptPrompt(dog, DOG)],
        "layout": Layout(tiny_image("ref"), "A dog in the street.", [tiny_image("mask1")]),
        "num_inference_steps": 2,
        "inversion": Inversion(steps=2, cache=tmp_path_factory.mktemp("inversions")),
        "output_type": "latent",
        "latents": noise(),
    }


def test_the_family_is_told_from_the_model(
    tiny_xl: ConceptConductorPipeline, tiny_pipe: ConceptConductorPipeline
) -> None:
    assert tiny_xl.family.family == "sdxl" and tiny_pipe.family.family == "sd15"
    backbone = tiny_xl.backbone
    assert isinstance(backbone, SDXLBackbone)
    assert backbone.text_layers == 70
    assert tiny_xl.defaults.alignment.step_size == 40 and tiny_pipe.defaults.alignment.step_size == 10
    assert backbone.layout_layer == backbone.mask_layer


def test_texts_are_numbered_down_mid_up(tiny_xl: ConceptConductorPipeline) -> None:
    names = cross_attention_names(tiny_xl.unet)
    expected = [("down_blocks.1", 4), ("down_blocks.2", 20), ("mid_block", 10), ("up_blocks.0", 30), ("up_blocks.1", 6)]
    start = 0
    for stage, count in expected:
        assert all(name.startswith(stage) for name in names[start : start + count])
        start += count
    assert start == len(names)
    assert len({layer.heads for layer in attention_layers(tiny_xl.unet).values()}) > 1  # each layer has its own count


def test_without_concepts_it_is_plain_sdxl(tiny_xl: ConceptConductorPipeline) -> None:
    plain = StableDiffusionXLPipeline(
        **{name: part for name, part in tiny_xl.components.items() if name != "scheduler"},
        scheduler=DDIMScheduler.from_config(tiny_xl.scheduler.config),
        force_zeros_for_empty_prompt=False,  # an empty negative prompt is encoded
        add_watermarker=False,
    )
    plain.set_progress_bar_config(disable=True)
    for texts in (
        {"prompt": "a dog", "negative_prompt": ""},
        {"prompt": "a dog", "prompt_2": "the beach", "negative_prompt": "a cat", "negative_prompt_2": "the street"},
    ):
        run = {**texts, "num_inference_steps": 3, "latents": noise(), "output_type": "latent"}
        assert relative(tiny_xl(**run).images, plain(**run, guidance_scale=7.5).images) < 1e-5


def test_components_are_those_of_diffusers_own_pipelines(
    tiny_xl: ConceptConductorPipeline, tiny_pipe: ConceptConductorPipeline
) -> None:
    StableDiffusionPipeline(**tiny_pipe.components, requires_safety_checker=False)
    again = ConceptConductorPipeline.from_components(
        StableDiffusionXLPipeline(**tiny_xl.components, add_watermarker=False)
    )
    assert again.family is SDXLBackbone


def test_size_conditioning_is_in_pixels_for_every_row(tiny_xl: ConceptConductorPipeline) -> None:
    pooled = torch.arange(3 * 2 * 16.0).view(3, 2, 16)  # (paths, guidance, dim)
    text = Conditioning(torch.zeros(3, 2, 70, 77, 32), pooled)
    added = tiny_xl.backbone.added_conditioning(text, slice(1, 3), 2, (24, 16))["added_cond_kwargs"]
    assert added["time_ids"].tolist() == [[192, 128, 0, 0, 192, 128]] * 8
    assert torch.equal(added["text_embeds"].view(2, 2, 2, 16), pooled[1:, :, None].expand(-1, -1, 2, -1))


def test_every_forward_is_conditioned_on_the_size(
    tiny_xl: ConceptConductorPipeline, call: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inversion, alignment and injection alike."""
    seen: list[list[float]] = []
    original = SDXLBackbone.added_conditioning

    def watch(self: SDXLBackbone, *arguments: Any) -> dict[str, Any]:
        added = original(self, *arguments)
        seen.extend(added["added_cond_kwargs"]["time_ids"].tolist())
        return added

    monkeypatch.setattr(SDXLBackbone, "added_conditioning", watch)
    run = {**call, "latents": None, "inversion": Inversion(steps=2, cache=False)}
    tiny_xl(**run, height=192, width=128)
    assert len(seen) > 8 and all(ids == [192, 128, 0, 0, 192, 128] for ids in seen)


def test_the_pooled_text_is_that_of_layer_0_of_the_second_encoder(
    tiny_xl: ConceptConductorPipeline, dog: Concept
) -> None:
    backbone = tiny_xl.backbone

    def pooled(changed_table: int, changed_layer: int) -> torch.Tensor:
        tables = [{name: vectors.clone() for name, vectors in table.items()} for table in dog.tokens]
        tables[changed_table]["<chow_dog_1>"][changed_layer, :8] += 1  # a layer norm would take out more
        other = Concept("other", tuple(tables), dog.text_encoders, dog.unet)
        (text,) = backbone.encode_concept_prompts(other, 0.7, [DOG])
        assert text.pooled is not None and text.pooled.shape == (1, 1, 16)
        return text.pooled

    own = pooled(0, 0)
    assert relative(pooled(0, 5), own) < ROUNDING and relative(pooled(1, 5), own) < ROUNDING
    assert relative(pooled(1, 0), own) > 1e-4


def test_both_encoders_read_their_own_tables_and_weights(tiny_xl: ConceptConductorPipeline, dog: Concept) -> None:
    backbone = tiny_xl.backbone
    (text,) = backbone.encode_concept_prompts(dog, 0.7, [DOG])
    halves = text.texts.split([16, 16], dim=-1)
    for encoder in (0, 1):
        tokens, updates = list(dog.tokens), list(dog.text_encoders)
        tokens[encoder] = {name: vectors + 1 for name, vectors in tokens[encoder].items()}
        updates[encoder] = {}
        for other in (Concept("t", tuple(tokens), dog.text_encoders), Concept("u", dog.tokens, tuple(updates))):
            (changed,) = backbone.encode_concept_prompts(other, 0.7, [DOG])
            new = changed.texts.split([16, 16], dim=-1)
            assert relative(new[1 - encoder], halves[1 - encoder]) < ROUNDING
            assert relative(new[encoder], halves[encoder]) > 1e-4


def test_what_a_concept_leaves_behind_is_nothing(tiny_xl: ConceptConductorPipeline, call: dict[str, Any]) -> None:
    def state() -> dict[str, type]:
        return {f"{k}.{name}": type(m) for k, n in enumerate(tiny_xl.backbone.models) for name, m in n.named_modules()}

    before, processors = state(), dict(tiny_xl.unet.attn_processors)
    tiny_xl(**call)
    assert state() == before and tiny_xl.unet.attn_processors == processors


class TestSecondPrompt:
    """prompt_2 is what the second encoder reads."""

    def test_in_the_base_path(self, tiny_xl: ConceptConductorPipeline) -> None:
        encode = tiny_xl.backbone.encode_prompt
        one, two, both = encode("a dog"), encode("a cat"), encode("a dog", "a cat")
        assert relative(both.texts[..., :16], one.texts[..., :16]) < ROUNDING
        assert relative(both.texts[..., 16:], two.texts[..., 16:]) < ROUNDING
        assert both.pooled is not None and two.pooled is not None
        assert relative(both.pooled, two.pooled) < ROUNDING
        assert relative(one.texts, two.texts) > 1e-2

    def test_in_a_concepts_path(self, tiny_xl: ConceptConductorPipeline, call: dict[str, Any], dog: Concept) -> None:
        plain = tiny_xl(**call).images
        replacing = {**call, "concepts": [ConceptPrompt(dog, replaces="dog")]}
        same = tiny_xl(**replacing, prompt_2="A dog on the beach.").images
        assert relative(same, tiny_xl(**replacing).images) < ROUNDING
        own = {**call, "concepts": [ConceptPrompt(dog, DOG, prompt_2="a red robot")]}
        assert relative(tiny_xl(**own).images, plain) > 1e-6

    def test_a_model_with_one_encoder_refuses_it(self, tiny_pipe: ConceptConductorPipeline) -> None:
        with pytest.raises(ConductorError, match=r"second text encoder, but SD1\.5 has one"):
            tiny_pipe("a dog", prompt_2="a cat", num_inference_steps=1)


def test_concepts_of_another_family_are_refused(
    tiny_xl: ConceptConductorPipeline, dog: Concept, call: dict[str, Any]
) -> None:
    backbone = tiny_xl.backbone
    small = Concept("small", ({"<a>": torch.zeros(16, 16)},))
    with pytest.raises(
        FamilyError, match=r"for models with one text encoder \(SD1.5\), but this model has 2 text encoders"
    ):
        tiny_xl(**{**call, "concepts": [ConceptPrompt(small, "a <a>")]})
    wide = Concept("wide", ({"<a>": torch.zeros(70, 16)}, {"<a>": torch.zeros(70, 1280)}))
    with pytest.raises(FamilyError, match=r"shape \(70, 1280\), but this model needs \(70, 16\)"):
        backbone.check(wide)
    backbone.check(dog)


class TestVae:
    """SDXL's own VAE overflows in fp16."""

    @pytest.fixture
    def half(self) -> ConceptConductorPipeline:
        return ConceptConductorPipeline.from_pretrained(TINY_XL, torch_dtype=torch.float16)

    def test_it_computes_in_fp32_and_stays_stored_in_fp16(self, half: ConceptConductorPipeline) -> None:
        exact = ConceptConductorPipeline.from_pretrained(TINY_XL).backbone
        backbone = half.backbone
        latents = noise().half()
        with torch.no_grad():
            expected = exact.decode_latents(latents.float())
        assert torch.allclose(backbone.decode_latents(latents), expected, atol=1e-6)
        pixels = expected * 2 - 1
        encoded, wanted = backbone.encode_image(pixels), exact.encode_image(pixels).half()
        assert (encoded != wanted).float().mean() < 0.05  # computed in fp16, most numbers would be rounded otherwise
        assert relative(encoded.float(), wanted.float()) < 1e-3
        assert half.vae.dtype == torch.float16 and backbone.vae_dtype == torch.float32

    def test_a_mended_one_is_left_in_fp16(self, half: ConceptConductorPipeline) -> None:
        half.vae.register_to_config(force_upcast=False)
        assert half.backbone.vae_dtype == torch.float16

    def test_a_whole_run_in_half_precision(self, half: ConceptConductorPipeline, call: dict[str, Any]) -> None:
        half.set_progress_bar_config(disable=True)
        out = half(**{**call, "output_type": "pt", "inversion": Inversion(steps=2, cache=False)})
        assert torch.isfinite(out.images).all() and half.vae.dtype == torch.float16

    def test_tiling_and_slicing_are_passed_on(self, half: ConceptConductorPipeline) -> None:
        half.enable_vae_tiling()
        half.enable_vae_slicing()
        assert half.vae.use_tiling and half.vae.use_slicing
        half.disable_vae_tiling()
        half.disable_vae_slicing()
        assert not half.vae.use_tiling and not half.vae.use_slicing


def test_models_wait_on_the_cpu_and_the_images_stay_the_same(
    tiny_xl: ConceptConductorPipeline, call: dict[str, Any]
) -> None:
    """The hooks of ``enable_model_cpu_offload``, with the CPU as the accelerator too."""
    expected = tiny_xl(**{**call, "output_type": "np"}).images
    offloaded = ConceptConductorPipeline.from_pretrained(TINY_XL)
    offloaded.set_progress_bar_config(disable=True)
    offloaded.enable_model_cpu_offload(device="cpu")
    assert len(offloaded._all_hooks) == 4  # two text encoders, U-Net and VAE take turns
    images = offloaded(**{**call, "output_type": "np"}).images
    assert abs(images - expected).max() < 1e-4
    offloaded.remove_all_hooks()
