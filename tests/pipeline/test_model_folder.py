"""Model folders: every file is read here first, and what is wrong is one sentence before a weight is loaded."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from concept_conductor import ConceptConductorPipeline, ConductorError, FamilyError
from concept_conductor.pipeline import loading
from concept_conductor.recipes.files import model_sha256
from tests.conftest import TINY, TINY_XL
from tests.pipeline.conftest import copied, edit

TEXT, UNET, VAE = "text_encoder/model", "unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"


def refused(model: Path, **options: Any) -> str:
    """The sentence with which loading and `doctor` refuse a model; it must be the same."""
    with pytest.raises(ConductorError) as caught:
        ConceptConductorPipeline.from_pretrained(model, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    if not options:
        with pytest.raises(type(caught.value)) as told:
            loading.describe(model, torch.float16)
        assert str(told.value) == message
    return message


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {f"{name}.{key}": value for name, part in networks.items() for key, value in part.state_dict().items()}


@pytest.mark.parametrize(("folder", "kind"), [(TINY, StableDiffusionPipeline), (TINY_XL, StableDiffusionXLPipeline)])
def test_it_is_what_diffusers_loads(folder: Path, kind: Any) -> None:
    ours, theirs = ConceptConductorPipeline.from_pretrained(folder), kind.from_pretrained(folder)
    mine, own = weights(ours), weights(theirs)
    assert mine.keys() == own.keys() and all(torch.equal(mine[name], own[name]) for name in own)
    assert {name: type(part) for name, part in ours.components.items()} == {
        name: type(part) for name, part in theirs.components.items()
    }
    for name, part in theirs.components.items():
        if isinstance(part, torch.nn.Module):
            assert not getattr(ours, name).training
            buffers = dict(getattr(ours, name).named_buffers())
            assert all(torch.equal(buffers[key], buffer) for key, buffer in part.named_buffers())
    text = "a dog on the beach!"
    assert ours.tokenizer(text).input_ids == theirs.tokenizer(text).input_ids
    with torch.no_grad():
        ids = torch.tensor([ours.tokenizer(text, padding="max_length").input_ids])
        assert torch.allclose(ours.text_encoder(ids)[0], theirs.text_encoder(ids)[0], atol=1e-6)


def test_weights_are_kept_in_the_type_that_is_asked_for(model: Path) -> None:
    pipe = ConceptConductorPipeline.from_pretrained(
        model, torch_dtype={"default": torch.bfloat16, "vae": torch.float32}, safety_checker=None
    )
    assert (pipe.unet.dtype, pipe.text_encoder.dtype, pipe.vae.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    own = pipe.vae
    assert ConceptConductorPipeline.from_pretrained(model, vae=own).vae is own


def test_pickles_variants_and_shards_are_read(model: Path) -> None:
    state = load_file(model / f"{UNET}.safetensors")
    (model / f"{UNET}.safetensors").rename(model / f"{UNET}.fp16.safetensors")
    names = sorted(state)
    parts = {f"diffusion_pytorch_model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, some in parts.items():
        save_file({name: state[name] * 2 for name in some}, model / "unet" / file)
    where = {name: file for file, some in parts.items() for name in some}
    (model / f"{UNET}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    torch.save(load_file(model / f"{TEXT}.safetensors"), model / "text_encoder" / "pytorch_model.bin")
    (model / f"{TEXT}.safetensors").unlink()
    plain, half = (ConceptConductorPipeline.from_pretrained(model, variant=variant) for variant in (None, "fp16"))
    assert torch.equal(plain.unet.conv_in.weight, 2 * state["conv_in.weight"])
    assert torch.equal(half.unet.conv_in.weight, state["conv_in.weight"])
    assert torch.equal(
        plain.text_encoder.get_input_embeddings().weight, half.text_encoder.get_input_embeddings().weight
    )


def test_old_spellings_of_the_vaes_attention_are_read(model: Path) -> None:
    """As in SD1.5's own folder."""
    file, state = model / f"{VAE}.safetensors", load_file(model / f"{VAE}.safetensors")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def old(name: str) -> str:
        for new, spelling in names.items():
            name = name.replace(new, spelling)
        return name

    save_file({old(name): value for name, value in state.items()}, file)
    read = ConceptConductorPipeline.from_pretrained(model).vae.state_dict()
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        ("unet/config.json", {"time_cond_proj_dim": 8}, r"unet/config\.json: 'time_cond_proj_dim'"),
        ("unet/config.json", {"cross_attention_dim": 64}, "reads texts of width 64, but its text encoders write 32"),
        ("unet/config.json", {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
                              "projection_class_embeddings_input_dim": 64}, "wants size conditioning"),
        ("unet/config.json", {"in_channels": 8, "out_channels": 8}, "takes 8 channels .* where its VAE has 4"),
        ("unet/config.json", {"layers_per_block": 3}, "the unet of the model .* lacks"),
        ("vae/config.json", {"latents_mean": [0.0] * 4}, r"vae/config\.json: 'latents_mean'"),
        ("text_encoder/config.json", {"_attn_implementation": "a/b"}, "names an attention kernel"),
        ("text_encoder/config.json", {"num_hidden_layers": 1}, "has 16 weights, the first '.*', that its config"),
        ("text_encoder/config.json", {"intermediate_size": 32}, r"in the shape \(64.*describes \(32"),
        ("text_encoder/config.json", {"vocab_size": 600}, "is not the CLIP tokenizer of this model"),
        ("scheduler/scheduler_config.json", {"_class_name": "LCMScheduler"}, "'LCMScheduler'"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, "'beta_schedule'"),
        ("model_index.json", {"_class_name": "LatentConsistencyModelPipeline"}, "is a LatentConsistencyModelPipeline"),
        ("model_index.json", {"_class_name": []}, "is a pipeline of an unknown kind"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "as its 'vae'; expected AutoencoderKL"),
        ("model_index.json", {"unet": ["somewhere", "UNet2DConditionModel"]}, "as its 'unet'"),
        ("model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]}, "as its 'text_encoder'"),
        ("model_index.json", {"scheduler": None}, "has no 'scheduler'"),
        ("model_index.json", {"requires_aesthetics_score": True}, "'requires_aesthetics_score' as True"),
        ("model_index.json", {"prior": ["diffusers", "PriorTransformer"]}, "'prior' in model_index.json is not known"),
        ("model_index.json", {"tokenizer_2": ["transformers", "CLIPTokenizer"]}, "without the other"),
    ],
)  # fmt: skip
def test_configurations_are_honoured_or_refused(model: Path, file: str, fields: dict[str, Any], sentence: str) -> None:
    edit(model / file, **fields)
    with pytest.raises(ConductorError, match=sentence):
        raise ConductorError(refused(model))


@pytest.mark.parametrize(
    ("file", "fields", "sentence"),
    [
        (
            "text_encoder_2/config.json",
            {"eos_token_id": 7},
            "'eos_token_id' is 7, but its tokenizer ends texts with 513",
        ),
        (
            "unet/config.json",
            {"projection_class_embeddings_input_dim": 56},
            r"conditioned on 56 numbers.*give 64 \(a ref",
        ),
        ("unet/config.json", {"addition_embed_type": None}, "lacks size conditioning"),
        ("scheduler/scheduler_config.json", {"clip_sample": True}, "clips latents"),
        ("model_index.json", {"force_zeros_for_empty_prompt": "yes"}, "expected true or false"),
        ("model_index.json", {"tokenizer_2": [None, None]}, "without the other"),
    ],
)
def test_what_only_sdxl_has(xl: Path, file: str, fields: dict[str, Any], sentence: str) -> None:
    edit(xl / file, **fields)
    with pytest.raises(ConductorError, match=sentence):
        raise ConductorError(refused(xl))


def test_a_distilled_unet_is_refused_in_memory_too(tiny_pipe: ConceptConductorPipeline) -> None:
    unet = UNet2DConditionModel.from_config({**tiny_pipe.unet.config, "time_cond_proj_dim": 8})
    with pytest.raises(ConductorError, match="a distilled U-Net"):
        ConceptConductorPipeline(**{**tiny_pipe.components, "unet": unet})


@pytest.mark.parametrize(
    ("file", "start"),
    [(TEXT, "text_model.encoder.layers.1."), (UNET, "conv_in.weight"), (VAE, "decoder.conv_in.weight")],
)
def test_missing_weights_are_named(model: Path, file: str, start: str) -> None:
    state = load_file(model / f"{file}.safetensors")
    kept = {name: value for name, value in state.items() if not name.startswith(start)}
    save_file(kept, model / f"{file}.safetensors")
    message = refused(model)
    assert f"the {file.split('/')[0]} of the model '{model}' lacks" in message
    assert start.removeprefix("text_model.") in message


@pytest.mark.parametrize("kind", ["over", "shape", "integers", "twice"])
def test_other_weights_than_the_networks_own(model: Path, kind: str) -> None:
    file = model / f"{TEXT}.safetensors"
    state = load_file(file)
    name = "text_model.final_layer_norm.weight"
    if kind == "over":
        state["text_model.final_layer_norm.lora_A"] = torch.zeros(2)
    elif kind == "shape":
        state[name] = torch.zeros(33)
    elif kind == "integers":
        state[name] = torch.zeros(32, dtype=torch.int8)
    else:
        state["final_layer_norm.weight"] = torch.zeros(32)
    save_file(state, file)
    sentences = {
        "over": "has the weight 'text_model.final_layer_norm.lora_A' that its configuration has no place for",
        "shape": "in the shape (33,), but its configuration describes (32,)",
        "integers": "as numbers that are no weights",
        "twice": "twice in its files",
    }
    assert sentences[kind] in refused(model)


def test_older_files_hold_positions_too(model: Path) -> None:
    state = load_file(model / f"{TEXT}.safetensors")
    save_file({**state, "text_model.embeddings.position_ids": torch.arange(77)[None]}, model / f"{TEXT}.safetensors")
    ConceptConductorPipeline.from_pretrained(model)


@pytest.mark.parametrize(
    "name", ["../../elsewhere.safetensors", "/dev/zero", "deep/w.safetensors", "..", "w.pth", "", 3, "a\\b.safetensors"]
)
def test_shards_lie_beside_their_index(model: Path, name: Any) -> None:
    state = load_file(model / f"{TEXT}.safetensors")
    save_file(state, model.parent / "elsewhere.safetensors")
    (model / f"{TEXT}.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(state, name)}
    (model / f"{TEXT}.safetensors.index.json").write_text(json.dumps(index))
    assert "expected the name of a .safetensors or .bin file beside it" in refused(model)


@pytest.mark.parametrize("kind", ["missing", "misplaced", "over", "both", "no map"])
def test_indexes_of_shards_tell_the_truth(model: Path, kind: str) -> None:
    state = load_file(model / f"{TEXT}.safetensors")
    shards = dict.fromkeys(state, "one.safetensors")
    save_file(state, model / "text_encoder" / "one.safetensors")
    if kind == "missing":
        shards[next(iter(shards))] = "two.safetensors"
    elif kind == "misplaced":
        shards["text_model.x"] = "one.safetensors"
    elif kind == "over":
        del shards["text_model.final_layer_norm.bias"]
    if kind != "both":
        (model / f"{TEXT}.safetensors").unlink()
    index = {"weight_map": shards} if kind != "no map" else {"weight_map": []}
    (model / f"{TEXT}.safetensors.index.json").write_text(json.dumps(index))
    sentences = {
        "missing": "lacks text_encoder/two.safetensors",
        "misplaced": "has the weight 'text_model.x' elsewhere than its index says",
        "over": "has the weight 'text_model.final_layer_norm.bias' elsewhere",
        "both": "holds both model.safetensors and model.safetensors.index.json",
        "no map": "has no 'weight_map'",
    }
    assert sentences[kind] in refused(model)


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_adapters_beside_a_network_are_refused(model: Path, part: str) -> None:
    (model / part / "adapter_config.json").write_text('{"base_model_name_or_path": "some/one", "peft_type": "LORA"}')
    assert f"'{model / part}' holds an adapter (adapter_config.json)" in refused(model)


def test_nothing_of_a_local_folder_is_asked_of_the_hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "text_encoder" / "config.json").unlink()
    (model / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "some/one"}')
    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", lambda *_, **__: pytest.fail("the hub was asked"))
    assert "lacks text_encoder/config.json" in refused(model)


def test_all_that_is_loaded_is_hashed(model: Path) -> None:
    """Change any file, and either the hash is another or nothing of the model is."""
    before, loaded = model_sha256(model), weights(ConceptConductorPipeline.from_pretrained(model))
    for name in (TEXT, UNET, VAE):
        file = model / f"{name}.safetensors"
        state = load_file(file)
        save_file({key: value * 2 for key, value in state.items()}, file)
        assert model_sha256(model) != before, name
        save_file(state, file)
    (model / "text_encoder" / "deep").mkdir()
    save_file({}, model / "text_encoder" / "deep" / "model.safetensors")
    again = weights(ConceptConductorPipeline.from_pretrained(model))
    assert all(torch.equal(again[name], loaded[name]) for name in loaded)


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize("break_it", [fifo, device])
@pytest.mark.parametrize(
    "name",
    [
        "model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json",
        "tokenizer/merges.txt", "tokenizer/tokenizer_config.json", f"{UNET}.safetensors", "conductor.json",
    ],
)  # fmt: skip
def test_pipes_and_devices_are_not_waited_for(model: Path, name: str, break_it: Callable[[Path], None]) -> None:
    (model / "conductor.json").write_text("{}")
    break_it(model / name)
    assert "is no ordinary file" in (message := refused(model)) or "leads out of the model's folder" in message


def test_force_zeros_is_kept_and_obeyed(xl: Path, tmp_path: Path) -> None:
    """As in diffusers: no negative prompt is zeros; an empty one is encoded."""
    edit(xl / "model_index.json", force_zeros_for_empty_prompt=True)
    pipe, plain = ConceptConductorPipeline.from_pretrained(xl), StableDiffusionXLPipeline.from_pretrained(xl)
    for each in (pipe, plain):
        each.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    run: dict[str, Any] = {
        "prompt": "a dog", "width": 64, "height": 64, "num_inference_steps": 1, "latents": latents,
        "output_type": "latent", "guidance_scale": 7.5,
    }  # fmt: skip
    zeros, empty = pipe(**run).images, pipe(**run, negative_prompt="").images
    assert torch.allclose(zeros, plain(**run).images, atol=1e-4)
    assert torch.allclose(empty, plain(**run, negative_prompt="").images, atol=1e-4)
    assert not torch.allclose(zeros, empty, atol=1e-3)
    pipe.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())["force_zeros_for_empty_prompt"] is True
    assert ConceptConductorPipeline.from_pretrained(tmp_path / "saved").backbone.force_zeros
    assert not ConceptConductorPipeline.from_pretrained(TINY_XL).backbone.force_zeros


def test_what_sd15s_own_pipeline_puts_right_in_schedulers(model: Path) -> None:
    edit(model / "scheduler" / "scheduler_config.json", _class_name="PNDMScheduler", steps_offset=0, clip_sample=True)
    pipe = ConceptConductorPipeline.from_pretrained(model)
    assert type(pipe.scheduler).__name__ == "PNDMScheduler"
    assert pipe.backbone.scheduler.config.steps_offset == 1 and not pipe.backbone.scheduler.config.clip_sample


def test_the_prediction_type_can_be_said(model: Path) -> None:
    pipe = ConceptConductorPipeline.from_pretrained(model, prediction_type="v_prediction")
    assert pipe.backbone.scheduler.config.prediction_type == "v_prediction"
    assert "prediction_type is 'sample'; expected epsilon or v_prediction" in refused(model, prediction_type="sample")
    scheduler = pipe.scheduler
    assert "leave out one" in refused(model, prediction_type="epsilon", scheduler=scheduler)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"trust_remote_code": True}, "cannot be loaded with 'trust_remote_code'"),
        ({"device_map": "auto"}, "cannot be loaded with 'device_map'"),
        ({"torch_dtype": "float16"}, "torch_dtype is 'float16'; expected a number type such as torch.float16"),
        ({"use_safetensors": False}, "holds no weights called diffusion_pytorch_model.bin"),
    ],
)
def test_what_loading_does_not_know(model: Path, options: dict[str, Any], sentence: str) -> None:
    assert sentence in refused(model, **options)


@pytest.mark.parametrize("name", ["a/b/c", "../model", "/nowhere/at/all", "x" * 5000, "a/" + "b" * 5000, "a\0b"])
def test_names_that_no_model_has(name: str) -> None:
    with pytest.raises(ConductorError, match="there is no model"):
        ConceptConductorPipeline.from_pretrained(name)


def test_a_settings_file_is_read_before_the_weights(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model / "conductor.json").write_text('{"layout_layer": 3}')
    monkeypatch.setattr("concept_conductor.pipeline.model_folder.fill", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConductorError, match="'layout_layer'"):
        ConceptConductorPipeline.from_pretrained(model)


def test_loading_says_nothing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ConceptConductorPipeline.from_pretrained(model, torch_dtype=torch.float16)
    out, err = capfd.readouterr()
    assert out == err == ""


FILES = (
    "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json",
    "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.json",
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(), st.text(max_size=4),
    st.lists(st.integers(0, 40), max_size=4), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(TINY, tmp_path_factory.mktemp("mutated") / "model")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(FILES))
def test_any_file_with_any_value_is_a_model_or_one_sentence(spoilt: Path, data: st.DataObject, name: str) -> None:
    """Never another exception, whatever stands in a file, nor bytes that are cut off or turned."""
    file = spoilt / name
    before = file.read_bytes()
    content = json.loads(before)
    content[data.draw(st.sampled_from([*content, "x"]))] = data.draw(VALUES)
    changed = json.dumps(content).encode()
    place = data.draw(st.integers(0, len(changed) - 1))
    changed = data.draw(st.sampled_from([changed, changed[:place], changed[:place] + b"\xff" + changed[place + 1 :]]))
    try:
        file.write_bytes(changed)
        loading.describe(spoilt, torch.float32)
    except ConductorError as error:
        assert "\n" not in str(error)
    finally:
        file.write_bytes(before)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(ConductorError, match="no diffusers folder"):
        ConceptConductorPipeline.from_pretrained(tmp_path)
    shutil.copy(TINY / "model_index.json", tmp_path)
    with pytest.raises(ConductorError, match=r"lacks unet/config\.json"):
        ConceptConductorPipeline.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}')
    with pytest.raises(FamilyError, match=r"is a FluxPipeline; expected a Stable Diffusion 1\.x, 2\.x or XL"):
        ConceptConductorPipeline.from_pretrained(tmp_path)
