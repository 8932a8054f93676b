"""PEFT's settings that change what weights mean are honoured or refused by name, in folders and in headers."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model
from safetensors.torch import load_file, save_file

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats.peft_settings import CHANGED_BASE, HARMLESS, HARMLESS_AS, INITIALISATION, READ
from concept_conductor.errors import ConceptFileError
from tests.concepts.files import same
from tests.concepts.models import tiny_unet
from tests.concepts.peft import adapter, assert_same_differences

CONFIGS: tuple[type[PeftConfig], ...] = (LoraConfig, LoHaConfig, LoKrConfig)


TARGETS = ["attn2.to_k", "attn2.to_q"]


Edit = Callable[[Path, Path, dict[str, Any]], Path]


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_of_the_installed_peft_is_judged(config: type[PeftConfig]) -> None:
    """A new one has to be put into one of the tables."""
    assert {field.name for field in fields(config)} <= READ | HARMLESS | set(HARMLESS_AS) | {INITIALISATION}


def test_no_field_is_judged_twice() -> None:
    tables = (READ, HARMLESS, set(HARMLESS_AS), {INITIALISATION})
    assert sum(map(len, tables)) == len(set().union(*tables))


@pytest.mark.parametrize("kind", [True, False, "gaussian", "orthogonal", "eva", "mica"])
def test_initialisations_that_leave_the_model_as_it_is(tmp_path: Path, kind: bool | str) -> None:
    expected = adapter(tiny_unet("sd15"), tmp_path, target_modules=TARGETS, init_lora_weights=kind)
    assert_same_differences(Concept.load(tmp_path).unet, expected)


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_2", "olora"])
def test_initialisations_that_change_the_model(tmp_path: Path, kind: str) -> None:
    """PEFT's own merge differs from the weights' product; what PEFT converts into a plain LoRA is read."""
    expected = adapter(tiny_unet("sd15"), tmp_path, target_modules=TARGETS, init_lora_weights=kind)
    state = load_file(tmp_path / "adapter_model.safetensors")
    layer = next(iter(expected))
    down, up = (state[f"base_model.model.{layer}.lora_{half}.weight"] for half in "AB")
    assert (up @ down * 1.5 - expected[layer]).norm() > 0.1 * expected[layer].norm()
    with pytest.raises(ConceptFileError, match=f"'{INITIALISATION}' as '{kind}', which is .*takes weights out"):
        Concept.load(tmp_path)


@pytest.mark.filterwarnings("ignore:OLoRA changes the base weights")
def test_what_peft_converts_into_a_plain_lora_is_read(tmp_path: Path) -> None:
    network = tiny_unet("sd15")
    tuned = get_peft_model(copy.deepcopy(network), LoraConfig(r=2, target_modules=TARGETS, init_lora_weights="olora"))
    tuned.peft_config["default"].init_lora_weights = True  # as PEFT's guide has it
    tuned.save_pretrained(str(tmp_path / "start"))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.data += 0.05
    tuned.save_pretrained(str(tmp_path / "plain"), path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    concept = Concept.load(tmp_path / "plain")
    merged = tuned.merge_and_unload()
    expected = {name: merged.get_submodule(name).weight - network.get_submodule(name).weight for name in concept.unet}
    assert len(expected) == 12 and all(difference.norm() > 1e-3 for difference in expected.values())
    assert_same_differences(concept.unet, expected)


#: Field -> a value with which it changes what weights mean, or which nobody knows.
HARMFUL: dict[str, Any] = {
    "bias": "lora_only",
    "lora_bias": True,
    "modules_to_save": ["conv_in"],
    "trainable_token_indices": [3],
    "target_parameters": ["weight"],
    "fan_in_fan_out": True,
    "layer_replication": [[0, 2]],
    "ensure_weight_tying": True,
    "use_dora": True,
    "use_qalora": True,
    "use_bdlora": {"target_modules_bd_a": ["to_k"]},
    "kasa_config": {},
    "velora_config": {"num_groups": 2},
    "monteclora_config": {},
    "arrow_config": {"top_k": 3},
    "alora_invocation_tokens": [1, 2],
    "megatron_config": {"a": 1},
    "enable_lora": [True],
    INITIALISATION: "corda",
    "peft_type": "ADALORA",
    "r": 3,
    "target_modules": ["to_v"],
    "exclude_modules": ["attn2.to_k"],
    "layers_to_transform": [7],
    "lora_alpha": 1e999,
    "alpha_pattern": {"to_k": float("nan")},
    "rank_pattern": {"to_k": 0},
    "use_rslora": "yes",
    "surprise": 1,
    "another_surprise": False,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder with nothing wrong in it."""
    folder = tmp_path_factory.mktemp("saved")
    adapter(tiny_unet("sd15"), folder, target_modules=TARGETS)
    return folder


def in_folder(saved: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """A folder like ``saved`` whose settings are changed."""
    shutil.copytree(saved, folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def in_header(saved: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """A file of diffusers' whose header has the same settings."""
    settings = {**json.loads((saved / "adapter_config.json").read_text()), **changes}
    state = load_file(saved / "adapter_model.safetensors")
    header = {"lora_adapter_metadata": json.dumps({f"unet.{field}": value for field, value in settings.items()})}
    folder.mkdir()
    path = folder / "lora.safetensors"
    save_file({key.replace("base_model.model.", "unet."): value for key, value in state.items()}, path, header)
    return path


@pytest.mark.parametrize("place", [in_folder, in_header])
def test_harmful_settings_are_refused_by_name(saved: Path, tmp_path: Path, place: Edit) -> None:
    assert set(HARMFUL) >= set(HARMLESS_AS)
    fine = Concept.load(place(saved, tmp_path / "fine", {}))
    assert fine.unet
    for field, value in HARMFUL.items():
        with pytest.raises(ConceptFileError) as error:
            Concept.load(place(saved, tmp_path / field, {field: value}))
        message = str(error.value)
        named = {"peft_type": "ADALORA", "r": "rank 2, for which its settings say 3"}.get(field, field)
        assert named in message and "\n" not in message and len(message) < 700, field


@pytest.mark.parametrize("kind", [*CHANGED_BASE, "PiSSA", "lora_ga_2", "surprise", 3, ["pissa"]])
def test_initialisations_are_refused_by_name(saved: Path, tmp_path: Path, kind: Any) -> None:
    with pytest.raises(ConceptFileError, match=f"'{INITIALISATION}' as "):
        Concept.load(in_folder(saved, tmp_path / "a", {INITIALISATION: kind}))


def test_settings_that_change_nothing(saved: Path, tmp_path: Path) -> None:
    """And one that is not known, but not set either."""
    changes = dict.fromkeys(HARMLESS_AS) | {"lora_dropout": 0.5, "corda_config": {"a": 1}, "surprise": None}
    changes |= {"base_model_name_or_path": "a stranger's", "megatron_core": "x", "modules_to_save": [], "r": 2}
    assert same(Concept.load(in_folder(saved, tmp_path / "a", changes)), Concept.load(saved))


def test_settings_in_the_header_of_other_files(tmp_path: Path) -> None:
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    state = {f"{layer}.lora_down.weight": torch.ones(2, 8), f"{layer}.lora_up.weight": torch.ones(8, 2)}
    save_file(state, tmp_path / "kohya.safetensors", {"lora_adapter_metadata": '{"unet.use_dora": true}'})
    with pytest.raises(ConceptFileError, match="settings of an adapter in its header.*kohya-ss LoRA has none"):
        Concept.load(tmp_path / "kohya.safetensors")


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"vae.r": 2}, {"transformer.r": 2}])
def test_settings_of_no_network(tmp_path: Path, settings: dict[str, Any]) -> None:
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    state = {f"{layer}.lora_A.weight": torch.ones(2, 8), f"{layer}.lora_B.weight": torch.ones(8, 2)}
    save_file(state, tmp_path / "a.safetensors", {"lora_adapter_metadata": json.dumps(settings)})
    with pytest.raises(ConceptFileError, match=f"the setting '{next(iter(settings))}'"):
        Concept.load(tmp_path / "a.safetensors")
