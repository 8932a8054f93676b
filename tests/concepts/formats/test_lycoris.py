"""LyCORIS's kinds of updates give what PEFT's own layers of them give, or the paper's formulas merged into a copy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoHaConfig, LoKrConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.formats import lycoris
from concept_conductor.concepts.formats.convert import ConceptFormat
from concept_conductor.errors import ConceptFileError
from tests.concepts.models import Models, Trained, adapted, assert_same_outputs, clean

RANK, ALPHA = 2, 3.0


def loha(**more: Any) -> Callable[[list[str]], LoHaConfig]:
    return lambda layers: LoHaConfig(r=RANK, alpha=ALPHA, target_modules=layers, init_weights=False, **more)


def lokr(**more: Any) -> Callable[[list[str]], LoKrConfig]:
    return lambda layers: LoKrConfig(r=RANK, alpha=ALPHA, target_modules=layers, init_weights=False, **more)


#: Products in flat and in Tucker's form; factors low-rank, whole, and both.
KINDS: dict[str, Callable[[list[str]], LoHaConfig | LoKrConfig]] = {
    "LoHa": loha(),
    "LoHa with cores": loha(use_effective_conv2d=True),
    "LoKr": lokr(decompose_factor=2),
    "LoKr with cores": lokr(decompose_factor=2, use_effective_conv2d=True, decompose_both=True),
    "LoKr of whole factors": lambda layers: LoKrConfig(r=64, alpha=64, target_modules=layers, init_weights=False),
}


def kohya_names(layers: list[str]) -> dict[str, str]:
    """Layer with its network's name -> kohya's name, as diffusers' converter spells it."""
    numbered = {f"{layer}.lora_A.weight": torch.tensor([[float(number)]]) for number, layer in enumerate(layers)}
    names = convert_state_dict_to_kohya(numbered)
    return {
        layers[int(value)]: key.removesuffix(".lora_down.weight")
        for key, value in names.items()
        if key.endswith("down.weight")
    }


def lycoris_file(path: Path, result: Trained) -> Path:
    """As LyCORIS writes it: kohya's names and alpha; where both of LoKr's factors are whole there is no scale."""
    packed = result.packed
    names = kohya_names(list(dict.fromkeys(key.rpartition(".")[0] for key in packed)))
    state = {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in packed.items()}
    config = result.adapters["unet"].peft_config["default"]
    for name in names.values():
        if f"{name}.lokr_w1" in state and f"{name}.lokr_w2" in state:
            state[f"{name}.lokr_w1"] = state[f"{name}.lokr_w1"] * (config.alpha / config.r)
            state[f"{name}.alpha"] = torch.tensor(1e9)  # what some trainers leave there
        else:
            state[f"{name}.alpha"] = torch.tensor(config.alpha)
    save_file(state, path)
    return path


@pytest.mark.parametrize("kind", list(KINDS))
def test_lycoris_files_and_peft_folders(tmp_path: Path, kind: str) -> None:
    """Every linear layer and convolution of U-Net and text encoder, from either kind of file, and converted."""
    result = adapted("sd15", "everything", KINDS[kind])
    path = lycoris_file(tmp_path / "lycoris.safetensors", result)
    for name, adapter in result.adapters.items():
        adapter.save_pretrained(tmp_path / "peft" / name)
    models = clean(result)
    before = models.outputs()
    for source in (path, tmp_path / "peft"):
        concept = Concept.load(source)
        assert concept.family == "sd15"
        assert all(isinstance(update, LowRank) for update in concept.unet.values())
        assert_same_outputs(models.with_concept(concept), result.outputs)
    kernels = {tuple(update.down.shape[2:]) for name, update in concept.unet.items() if "conv1" in name}
    assert kernels == {(3, 3)}
    converted = Concept.load(ConceptFormat.kohya.save(concept, tmp_path / "converted.safetensors"))
    assert_same_outputs(models.with_concept(converted), result.outputs)
    assert_same_outputs(models.outputs(), before)
    assert (result.outputs[0] - before[0]).norm() > 1e-3 * before[0].norm()


def test_sdxl(tmp_path: Path) -> None:
    result = adapted("sdxl", "attention", loha())
    path = lycoris_file(tmp_path / "lycoris.safetensors", result)
    concept = Concept.load(path)
    assert concept.family == "sdxl" and len(concept.text_encoders) == 2
    assert {update.rank for update in concept.unet.values()} == {RANK * RANK}
    assert_same_outputs(clean(result).with_concept(concept), result.outputs)


def test_settings_for_single_layers(tmp_path: Path) -> None:
    result = adapted("sd15", "attention", loha(rank_pattern={"to_k": 1}, alpha_pattern={"to_v": 5.0}))
    for name, adapter in result.adapters.items():
        adapter.save_pretrained(tmp_path / name)
    assert_same_outputs(clean(result).with_concept(Concept.load(tmp_path)), result.outputs)


def merged(models: Models, differences: dict[str, Tensor]) -> list[Tensor]:
    """What the models give with these differences in the U-Net's weights; the models are left as they were."""
    unet = models.networks["unet"]
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    for layer, difference in differences.items():
        unet.get_submodule(layer).weight.data += difference
    outputs = models.outputs()
    unet.load_state_dict(before)
    return outputs


@pytest.mark.parametrize("kind", ["Tucker", "full"])
def test_cores_and_full_differences(tmp_path: Path, kind: str) -> None:
    """``W + alpha/rank * core x1 up x2 down`` of LoCon with a Tucker core, and ``W + diff``."""
    torch.manual_seed(0)
    models = Models.tiny("sd15")
    unet = models.networks["unet"]
    layers = models.layers("unet", "everything")
    names = kohya_names([f"unet.{layer}" for layer in layers])
    state, differences = {}, {}
    for layer in layers:
        weight, name = unet.get_submodule(layer).weight, names[f"unet.{layer}"]
        if kind == "full":
            state[f"{name}.diff"] = differences[layer] = torch.randn_like(weight) * 0.1
        elif isinstance(unet.get_submodule(layer), nn.Conv2d) and weight.shape[2] == 3:
            up, down = torch.randn(len(weight), RANK), torch.randn(RANK, weight.shape[1])
            core = torch.randn(RANK, RANK, 3, 3) * 0.1
            differences[layer] = ALPHA / RANK * torch.einsum("ijkl,pi,jr->prkl", core, up, down)
            state |= {
                f"{name}.lora_up.weight": up[..., None, None],
                f"{name}.lora_down.weight": down[..., None, None],
                f"{name}.lora_mid.weight": core,
                f"{name}.alpha": torch.tensor(ALPHA),
            }
    assert len(differences) > 5
    save_file(state, tmp_path / "lycoris.safetensors")
    concept = Concept.load(tmp_path / "lycoris.safetensors")
    assert concept.unet.keys() == differences.keys()
    assert_same_outputs(models.with_concept(concept), merged(models, differences))


def halves(data: st.DataObject, out: int, width: int, kernel: tuple[int, ...]) -> LowRank:
    rank = data.draw(st.integers(1, 5))
    return LowRank(torch.randn(rank, width, *kernel), torch.randn(out, rank))


@given(st.data(), st.integers(1, 6), st.integers(1, 6), st.sampled_from([(), (3, 3), (1, 1)]))
@settings(max_examples=40, deadline=None)
def test_products_are_exact_and_of_no_higher_rank_than_the_layer(
    data: st.DataObject, out: int, width: int, kernel: tuple[int, ...]
) -> None:
    one, two = halves(data, out, width, kernel), halves(data, out, width, kernel)
    product = lycoris.hadamard(one, two)
    assert torch.allclose(lycoris.dense(product), lycoris.dense(one) * lycoris.dense(two), atol=1e-4)
    factor = halves(data, data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), ())
    blocks = lycoris.kronecker(factor, two)
    flat = torch.kron(lycoris.dense(factor), lycoris.dense(two).flatten(1))
    assert torch.allclose(lycoris.dense(blocks).flatten(1), flat, atol=1e-4)
    for update in (product, blocks):
        shape = (update.up.shape[0], *update.down.shape[1:])
        assert update.rank <= (shape[0] if kernel else min(shape))
        assert update.down.shape[2:] == kernel


LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
LOHA = {
    f"{LAYER}.hada_w{n}_{half}": torch.ones(8, 2) if half == "a" else torch.ones(2, 8) for n in "12" for half in "ab"
}
LOKR = {f"{LAYER}.lokr_w1": torch.ones(2, 2), f"{LAYER}.lokr_w2": torch.ones(4, 4)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({**LOHA, f"{LAYER}.hada_w2_b": None}, ("LoHa", "without its part 'hada_w2_b'")),
        ({**LOHA, f"{LAYER}.hada_w2_b": torch.ones(3, 8)}, ("LoHa", "do not fit each other", "hada_w2_b 3x8")),
        ({**LOHA, f"{LAYER}.hada_w2_b": torch.ones(2, 1)}, ("LoHa", "do not fit each other")),
        ({**LOHA, f"{LAYER}.hada_t1": torch.ones(3, 2, 3, 3)}, ("LoHa", "do not fit each other")),
        ({**LOHA, f"{LAYER}.hada_w1_a": torch.full((8, 2), torch.nan)}, ("hada_w1_a", "undefined")),
        ({key: value * 1e30 for key, value in LOHA.items()}, ("infinite",)),
        ({**LOHA, f"{LAYER}.alpha": torch.tensor(torch.inf)}, ("alpha", "one finite number")),
        ({**LOHA, f"{LAYER}.hada_w3_a": torch.ones(2, 2)}, ("hada_w3_a",)),
        ({**LOHA, f"{LAYER}.dora_scale": torch.ones(8, 1)}, ("DoRA",)),
        ({f"{LAYER}.lokr_w1": torch.ones(2, 2)}, ("LoKr", "without its part 'lokr_w2_a'")),
        ({**LOKR, f"{LAYER}.lokr_w1": torch.ones(2, 2, 3, 3)}, ("LoKr", "do not fit each other")),
        ({key: torch.ones(300, 300) for key in LOKR}, ("too large",)),
        ({**LOKR, f"{LAYER}.lokr_w2_a": torch.ones(4, 2)}, ("LoKr", "do not fit each other", "lokr_w2_a 4x2")),
        ({f"{LAYER}.diff": torch.ones(8)}, ("diff", "(8,)")),
        ({f"{LAYER}.diff": torch.ones(8, 8), f"{LAYER}.alpha": torch.ones(())}, ("full difference", "alpha")),
        ({f"{LAYER}.diff": torch.ones(8, 8), f"{LAYER}.diff_b": torch.ones(8)}, ("trained biases and norms",)),
        ({"lora_unet_elsewhere.diff": torch.ones(8, 8)}, ("full difference", "elsewhere", "no U-Net")),
        ({"base_model.model.mid_block.x.hada_w1_a": torch.ones(8, 2)}, ("missing",)),
    ],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, tensors: dict[str, Tensor | None], words: tuple[str, ...]) -> None:
    path = tmp_path / "bad.safetensors"
    save_file({key: value for key, value in tensors.items() if value is not None}, path)
    with pytest.raises(ConceptFileError) as error:
        Concept.load(path)
    message = str(error.value)
    assert str(tmp_path) in message and "\n" not in message
    assert all(word in message for word in words), message


def test_the_untouched_examples_are_fine(tmp_path: Path) -> None:
    for tensors in (LOHA, LOKR):
        save_file(tensors, tmp_path / "good.safetensors")
        (update,) = Concept.load(tmp_path / "good.safetensors").unet.values()
        assert isinstance(update, LowRank)
        assert torch.allclose(lycoris.dense(update), torch.full((8, 8), 4.0 if tensors is LOHA else 1.0))


def test_a_file_that_unfolds_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file(
        {key.replace("to_q", to): value.clone() for key, value in LOKR.items() for to in ("to_q", "to_k", "to_v")},
        tmp_path / "large.safetensors",
    )
    assert math.prod(next(iter(Concept.load(tmp_path / "large.safetensors").unet.values())).down.shape) == 64
    monkeypatch.setattr(lycoris, "MAX_NUMBERS", 300)
    with pytest.raises(ConceptFileError, match="too large together with those before it"):
        Concept.load(tmp_path / "large.safetensors")
