"""LoRA files as their real writers write them give what PEFT's own layers give."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats.convert import ConceptFormat
from concept_conductor.concepts.inspection import inspect
from concept_conductor.errors import ConceptFileError, FamilyError
from tests.concepts.models import Models, Trained, assert_same_outputs, clean, tiny_unet, trained
from tests.stability import unet_layer

FAMILIES = ("sd15", "sdxl")


def check(path: Path, result: Trained) -> None:
    """The file's concept gives what the trained adapters gave, and is told as its family's."""
    models = clean(result)
    before = models.outputs()
    concept = Concept.load(path)
    assert_same_outputs(models.with_concept(concept), result.outputs)
    assert concept.family == result.models.family
    assert len(concept.tokens) == len(concept.text_encoders) == len(models.networks) - 1
    assert_same_outputs(models.outputs(), before)


def save_diffusers(folder: Path, result: Trained, **more: Any) -> Path:
    """What a pipeline's ``save_lora_weights`` writes."""
    pipeline = StableDiffusionXLPipeline if result.models.family == "sdxl" else StableDiffusionPipeline
    layers = {f"{name}_lora_layers": state for name, state in result.states.items()}
    pipeline.save_lora_weights(folder, **layers, **more)
    return folder / "pytorch_lora_weights.safetensors"


@pytest.mark.parametrize("kinds", ["attention", "everything"])
@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_files(tmp_path: Path, family: str, kinds: str) -> None:
    result = trained(family, kinds)
    check(save_diffusers(tmp_path, result), result)


def test_a_diffusers_file_with_settings_in_its_header(tmp_path: Path) -> None:
    """alpha, a pattern for some layers and rank-stabilised scaling, per network."""
    settings = {"lora_alpha": 7, "alpha_pattern": {"attn2.to_k": 5, "q_proj": 3}, "rank_pattern": {"attn1.to_v": 3}}
    result = trained("sd15", use_rslora=True, **settings)
    metadata = {
        f"{name}_lora_adapter_metadata": adapter.peft_config["default"].to_dict()
        for name, adapter in result.adapters.items()
    }
    path = save_diffusers(tmp_path, result, **metadata)
    assert {update.rank for update in Concept.load(path).unet.values()} == {2, 3}
    check(path, result)


def test_older_diffusers_spellings(tmp_path: Path) -> None:
    """``lora_linear_layer``, ``.lora.down``, and attention processors without the network's name."""
    result = trained("sd15")
    older = {
        f"{name}.{key}": value
        for name, state in result.states.items()
        for key, value in convert_state_dict_to_diffusers(state).items()
    }
    assert any(".lora_linear_layer.down." in key for key in older) and any(".to_q.lora.down." in key for key in older)
    save_file(older, tmp_path / "older.safetensors")
    oldest = {
        key.replace(".to_out.0.lora.", ".processor.to_out_lora.").replace(".lora.", "_lora."): value
        for key, value in convert_state_dict_to_diffusers(result.states["unet"]).items()
    }
    oldest = {key.replace(".to_", ".processor.to_") if "processor" not in key else key: v for key, v in oldest.items()}
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight" in oldest
    torch.save(oldest, tmp_path / "pytorch_lora_weights.bin")
    models = clean(result)
    concept = Concept.load(tmp_path / "pytorch_lora_weights.bin")
    assert concept.name == tmp_path.name
    assert_same_outputs(models.with_concept(concept)[:1], result.outputs[:1])
    check(tmp_path / "older.safetensors", result)


def test_old_text_encoder_spelling(tmp_path: Path) -> None:
    """``text_encoder.text_model.LAYER.to_q_lora``, whose names of the projections differ."""
    result = trained("sd15")
    names = {
        ".q_proj.": ".to_q_lora.",
        ".k_proj.": ".to_k_lora.",
        ".v_proj.": ".to_v_lora.",
        ".out_proj.": ".to_out_lora.",
    }
    old = {}
    for key, value in result.packed.items():
        if key.startswith("text_encoder."):
            for new, older in names.items():
                key = key.replace(new, older)
            key = (
                key.replace("encoder.layers", "text_model.encoder.layers", 1)
                .replace("lora_A", "down")
                .replace("lora_B", "up")
            )
        old[key] = value
    save_file(old, tmp_path / "old.safetensors")
    assert "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight" in old
    check(tmp_path / "old.safetensors", result)


@pytest.mark.parametrize("kinds", ["attention", "everything"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kohya_files(tmp_path: Path, family: str, kinds: str) -> None:
    """LoRA and LoCon, 1x1 and 3x3, with alpha over rank."""
    result = trained(family, kinds, lora_alpha=6)
    state = convert_state_dict_to_kohya(result.packed)
    assert all(key.startswith("lora_") for key in state)
    state = {key: torch.tensor(6.0) if key.endswith(".alpha") else value for key, value in state.items()}
    save_file(state, tmp_path / "kohya.safetensors")
    check(tmp_path / "kohya.safetensors", result)


def test_kohya_files_of_sdxl_in_stabilitys_names(tmp_path: Path) -> None:
    result = trained("sdxl", "everything")
    state: dict[str, Tensor] = {}
    for key, value in result.states["unet"].items():
        layer, _, half = key.removesuffix(".weight").rpartition(".")
        name = "lora_unet_" + unet_layer(layer).replace(".", "_")
        state[f"{name}.{'lora_down' if half == 'lora_A' else 'lora_up'}.weight"] = value
        state[f"{name}.alpha"] = torch.tensor(2.0)
    assert len(state) == len(result.states["unet"]) * 3 // 2
    text = {key: value for key, value in result.packed.items() if key.startswith("text_encoder")}
    save_file({**state, **convert_state_dict_to_kohya(text)}, tmp_path / "kohya.safetensors")
    check(tmp_path / "kohya.safetensors", result)


@pytest.mark.parametrize("family", FAMILIES)
def test_peft_folders(tmp_path: Path, family: str) -> None:
    """A folder for each network, with alpha, patterns and rank-stabilised scaling."""
    settings = {"rank_pattern": {"to_k": 4}, "alpha_pattern": {"to_v": 9, "mlp.fc1": 2}, "use_rslora": True}
    result = trained(family, "everything", lora_alpha=5, **settings)
    for name, adapter in result.adapters.items():
        adapter.save_pretrained(tmp_path / "dog" / name)
    assert Concept.load(tmp_path / "dog").name == "dog"
    check(tmp_path / "dog", result)


def test_a_peft_folder_of_one_network(tmp_path: Path) -> None:
    result = trained("sd15", lora_alpha=3)
    result.adapters["unet"].save_pretrained(tmp_path / "unet_only")
    result.adapters["text_encoder"].save_pretrained(tmp_path / "text_only")
    models = clean(result)
    unet = Concept.load(tmp_path / "unet_only")
    text = Concept.load(tmp_path / "text_only" / "adapter_model.safetensors")
    assert_same_outputs(models.with_concept(unet)[:1], result.outputs[:1])
    assert_same_outputs(models.with_concept(text)[1:], result.outputs[1:])
    both = Concept.load(tmp_path / "unet_only", tmp_path / "text_only")
    assert_same_outputs(models.with_concept(both), result.outputs)
    assert both.name == "unet_only"


@pytest.mark.parametrize("format", [ConceptFormat.ours, ConceptFormat.kohya, ConceptFormat.diffusers])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_survives_conversion(tmp_path: Path, family: str, format: ConceptFormat) -> None:
    result = trained(family, "everything", lora_alpha=3)
    for name, adapter in result.adapters.items():
        adapter.save_pretrained(tmp_path / "peft" / name)
    path = format.save(Concept.load(tmp_path / "peft"), tmp_path / "converted.safetensors")
    check(path, result)


def test_what_is_converted_can_be_loaded_by_diffusers(tmp_path: Path) -> None:
    """Into a U-Net by diffusers' own loader, in both layouts."""
    result = trained("sd15")
    path = save_diffusers(tmp_path, result)
    concept = Concept.load(path)
    for format in (ConceptFormat.kohya, ConceptFormat.diffusers):
        format.save(concept, tmp_path / "converted.safetensors")
        state, alphas, _ = StableDiffusionPipeline.lora_state_dict(
            tmp_path / "converted.safetensors", return_lora_metadata=True
        )
        unet = clean(result).networks["unet"]
        StableDiffusionPipeline.load_lora_into_unet(state, alphas, unet)
        with torch.no_grad():
            assert_same_outputs(Models("sd15", {"unet": unet}).outputs(), result.outputs[:1])


def test_trigger_words_come_from_the_header(tmp_path: Path) -> None:
    state = convert_state_dict_to_kohya(trained("sd15").packed)
    frequency = json.dumps({"10_sks dog": {"sks dog": 20, "outdoors": 9}, "5_reg": {"dog": 3}})
    headers: list[tuple[dict[str, str], str | None]] = [
        ({"ss_tag_frequency": frequency, "ss_output_name": "dog_v1"}, "sks dog"),
        ({"modelspec.trigger_phrase": "ohwx dog", "ss_tag_frequency": frequency}, "ohwx dog"),
        ({"ss_tag_frequency": "[1"}, None),
        ({"ss_tag_frequency": '{"a": 3}'}, None),
        ({}, None),
    ]
    for header, words in headers:
        save_file(state, tmp_path / "dog.safetensors", metadata=header)
        concept = Concept.load(tmp_path / "dog.safetensors")
        assert concept.phrase == words
        assert concept.placeholders == ()
        assert "ss_tag_frequency" not in concept.metadata or len(concept.metadata["ss_tag_frequency"]) < 300


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_bundled_with_a_lora_are_its_tokens(tmp_path: Path, family: str) -> None:
    result = trained(family)
    state = convert_state_dict_to_kohya(result.packed)
    if family == "sd15":
        tokens = {"bundle_emb.mug.string_to_param.*": torch.randn(2, 768)}
    else:
        tokens = {"bundle_emb.mug.clip_l": torch.randn(2, 768), "bundle_emb.mug.clip_g": torch.randn(2, 1280)}
    save_file({**state, **tokens}, tmp_path / "bundle.safetensors")
    check(tmp_path / "bundle.safetensors", result)
    concept = Concept.load(tmp_path / "bundle.safetensors")
    assert concept.name == "bundle"
    assert concept.positions == {"mug": 2}
    assert inspect(tmp_path / "bundle.safetensors").kind == "kohya-ss LoRA + textual inversion"
    save_file({**state, "bundle_emb.mug": torch.ones(2)}, tmp_path / "bundle.safetensors")
    with pytest.raises(ConceptFileError, match="names no embedding"):
        Concept.load(tmp_path / "bundle.safetensors")


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
UNET = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def pair(layer: str, down: str = ".lora_down.weight", up: str = ".lora_up.weight") -> dict[str, Tensor]:
    return {layer + down: torch.ones(2, 8), layer + up: torch.ones(8, 2)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{LAYER}.lora_down.weight": torch.ones(2, 8)}, (LAYER, "partner")),
        ({f"{LAYER}.lora_up.weight": torch.ones(8, 2)}, (LAYER, "partner")),
        ({**pair(LAYER), "lora_unet_other.alpha": torch.tensor(1.0)}, ("lora_unet_other.alpha", "no low-rank pair")),
        ({**pair(LAYER), f"{LAYER}.alpha": torch.tensor(torch.nan)}, ("alpha", "finite")),
        ({**pair(LAYER), f"{LAYER}.alpha": torch.ones(3)}, ("alpha", "(3,)")),
        ({**pair(LAYER), "stray": torch.ones(1)}, ("stray",)),
        ({**pair(LAYER), f"{LAYER}.scale": torch.ones(1)}, (f"{LAYER}.scale",)),
        ({**pair(LAYER), **pair("lora_unet_input_blocks_4_1_proj_in")}, ("Stability", "split")),
        (pair("lora_unet_input_blocks_x"), ("lora_unet_input_blocks_x",)),
        ({**pair(LAYER), f"{LAYER}.lora_down.weight": torch.full((2, 8), torch.nan)}, ("undefined",)),
        ({**pair(LAYER), f"{LAYER}.lora_down.weight": torch.ones(2, 8, 3)}, ("(2, 8, 3)",)),
        (
            {f"{LAYER}.lora_down.weight": torch.ones(2, 8, 3, 3), f"{LAYER}.lora_up.weight": torch.ones(8, 2, 3, 3)},
            ("3x3", "1x1"),
        ),
        ({f"{UNET}.lora_A.weight": torch.ones(2, 8)}, ("one half",)),
        ({**pair(UNET, ".lora_A.weight", ".lora_B.weight"), f"{UNET}.lora_B.bias": torch.ones(8)}, ("lora_B.bias",)),
        ({**pair(UNET, ".lora_A.weight", ".lora_B.weight"), "vae.conv": torch.ones(8)}, ("vae.conv",)),
        (
            {**pair(UNET, ".lora_A.weight", ".lora_B.weight"), **pair(UNET, ".lora.down.weight", ".lora.up.weight")},
            ("same one twice",),
        ),
        (
            {
                **pair("text_encoder.a.q_proj", ".lora_A.weight", ".lora_B.weight"),
                **pair("text_encoder.text_model.a.q_proj", ".lora_A.weight", ".lora_B.weight"),
            },
            ("text_encoder.a.q_proj", "twice"),
        ),
    ],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, tensors: dict[str, Tensor], words: tuple[str, ...]) -> None:
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ConceptFileError) as error:
        Concept.load(tmp_path / "bad.safetensors")
    message = str(error.value)
    assert str(tmp_path / "bad.safetensors") in message and "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"use_dora": True}, "DoRA"),
        ({"lora_alpha": "much"}, "lora_alpha"),
        ({"alpha_pattern": {"(a+)+": 3}}, "expression"),
        (None, "missing"),
        ("{", "JSON"),
        ("[]", "table"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, settings: Any, word: str) -> None:
    trained("sd15").adapters["unet"].save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    if isinstance(settings, dict):
        settings = json.dumps({**json.loads(file.read_text()), **settings})
    if settings is None:
        file.unlink()
    else:
        file.write_text(settings)
    with pytest.raises(ConceptFileError, match=word):
        Concept.load(tmp_path / "adapter_model.safetensors")


@pytest.mark.parametrize(("kind", "settings"), [("DoRA", {"use_dora": True}), ("bias", {"lora_bias": True})])
def test_peft_adapters_that_are_not_plain_low_rank(tmp_path: Path, kind: str, settings: dict[str, bool]) -> None:
    config = LoraConfig(target_modules=["to_out.0"], init_lora_weights=False, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT does not know its own biases
        get_peft_model(tiny_unet("sd15"), config).save_pretrained(tmp_path)
    with pytest.raises(ConceptFileError, match=kind):
        Concept.load(tmp_path)


def test_mixed_families_are_refused(tmp_path: Path) -> None:
    one, other = (convert_state_dict_to_kohya(trained(family).packed) for family in FAMILIES)
    key = next(key for key in other if "attn2_to_k.lora_down" in key and "up_blocks_1_attentions_2" in key)
    up = key.replace("lora_down", "lora_up")
    strange = "lora_unet_up_blocks_9_attentions_0_transformer_blocks_0_attn2_to_k"
    mixed = {**one, f"{strange}.lora_down.weight": other[key], f"{strange}.lora_up.weight": other[up]}
    save_file(mixed, tmp_path / "mixed.safetensors")
    with pytest.raises(FamilyError, match="'mixed' mixes families: .* SD1.5's but .* SDXL's"):
        Concept.load(tmp_path / "mixed.safetensors")


def test_every_tensor_of_a_real_file_is_counted(tmp_path: Path) -> None:
    path = save_diffusers(tmp_path, trained("sdxl", "everything"))
    stored = load_file(path)
    report = inspect(path)
    assert report.problem is None
    assert (report.kind, report.family) == ("diffusers LoRA", "sdxl")
    assert report.tensors == len(stored)
    assert report.parameters == sum(tensor.numel() for tensor in stored.values())
    assert {group.goes_to for group in report.weights} >= {
        "U-Net ff.net.0.proj", "U-Net conv1", "U-Net time_embedding.linear_1", "text encoder 2 mlp.fc1",
    }  # fmt: skip
