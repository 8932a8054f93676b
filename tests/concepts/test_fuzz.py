"""Files that nobody has foreseen: looking into one gives a report, whatever it holds. Longer: raise QUICK's number."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from concept_conductor.concepts.inspection import inspect
from tests.concepts.files import Shadowed

QUICK = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_" + LAYER.replace(".", "_")
LAYERS = [
    *(KOHYA, f"unet.{LAYER}", LAYER, f"base_model.model.{LAYER}", "text_encoder.encoder.layers.0.mlp.fc1"),
    *("diffusion_model.input_blocks.0.0", "lora_te1_text_model_encoder_layers_0_mlp_fc1", "tokens.0.<a>", "unet.x"),
    *("lora_unet_double_blocks_0_img_mlp_0", "bundle_emb.x", "clip_l"),
]
PARTS = [
    *("lora_down.weight", "lora_up.weight", "alpha", "lora_mid.weight", "diff", "dora_scale", "down", "up", "weight"),
    *(f"hada_w{number}_{half}" for number in "12" for half in "ab"),
    *("hada_t1", "lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2", "lora_A.weight", "lora_B.weight"),
]
NAMES = st.one_of(
    st.builds("{}.{}".format, st.sampled_from(LAYERS), st.sampled_from(PARTS)),
    st.sampled_from([*LAYERS, "emb_params", "clip_g", "string_to_param", "name", "step", "bundle_emb.x.emb_params"]),
    st.text(max_size=6),
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
#: Numbers of each type in a byte, as safetensors calls them.
TYPES = {"F64": 0.125, "F32": 0.25, "F16": 0.5, "BF16": 0.5, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 0.125, "BOOL": 1,
         "F4": 2, "F8_E8M0": 1, "C64": 0.125}  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from([10**400])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)
FIELDS = ["peft_type", "r", "lora_alpha", "alpha", "alpha_pattern", "rank_pattern", "use_rslora", "target_modules",
          "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "bias", "new"]  # fmt: skip
PEFT = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=3)
KEYS = [
    "format",
    "format_version",
    "placeholders",
    "text_encoders",
    "name",
    "ss_tag_frequency",
    "lora_adapter_metadata",
]
HEADERS = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(
        st.sampled_from(["concept-conductor", "2", '["<a>"]', "[[["]),
        st.text(max_size=6),
        VALUES.map(json.dumps),
        PEFT.map(lambda fields: json.dumps({f"unet.{name}": value for name, value in fields.items()})),
    ),
    max_size=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def look(path: Path) -> None:
    """It is reported on, in one line where it is refused, and the report is JSON."""
    report = inspect(path)
    assert report.problem is None or len(report.problem.splitlines()) == 1
    json.loads(report.model_dump_json())


@given(tensors=st.dictionaries(NAMES, st.tuples(st.sampled_from(list(TYPES)), SHAPES), max_size=5), header=HEADERS,
       settings=PEFT)  # fmt: skip
@QUICK
def test_safetensors(folder: Path, tensors: dict[str, Any], header: dict[str, str], settings: dict[str, Any]) -> None:
    entries: dict[str, Any] = {"__metadata__": header}
    size = 0
    for name, (kind, shape) in tensors.items():
        end = size + int(torch.Size(shape).numel() / TYPES[kind])
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [size, end]}
        size = end
    content = json.dumps(entries).encode()
    content += b" " * (-len(content) % 8)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(struct.pack("<Q", len(content)) + content + bytes(range(256)) * (size // 256 + 1))
    file.write_bytes(file.read_bytes()[: 8 + len(content) + size])
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    look(file)
    look(folder)


def tensor(kind: torch.dtype, shape: list[int], form: str) -> Tensor:
    plain = torch.zeros(shape).to(kind)
    if form == "nested":
        return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    if form == "sparse":
        return torch.ones([*shape, 1]).to_sparse()
    if form == "parameter" and plain.is_floating_point():
        return nn.Parameter(plain)
    if form == "hidden methods":
        plain.isfinite = plain.float = plain.half = 3  # type: ignore[method-assign,assignment]
    return {"meta": plain.to("meta"), "expanded": torch.zeros(1).expand([*shape, 9])}.get(form, plain)


TENSORS = st.builds(
    tensor,
    st.sampled_from([torch.float32, torch.float16, torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.complex64,
                     torch.int64, torch.uint16, torch.bool]),
    SHAPES,
    st.sampled_from(["plain", "plain", "parameter", "nested", "sparse", "meta", "expanded", "hidden methods"]),
)  # fmt: skip
TREES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(TENSORS, st.none(), st.integers(), st.floats(), st.text(max_size=4), st.just([1])),
    lambda inner: st.dictionaries(NAMES | st.integers(), inner, max_size=3).flatmap(
        lambda table: st.sampled_from([table, Shadowed(table)])
    ),
    max_leaves=6,
)


@given(
    tables=st.dictionaries(NAMES | st.sampled_from(["params", "new_concept_embedding", "unet"]), TREES, max_size=4),
    zipped=st.booleans(),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=2),
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@QUICK
def test_pickles(folder: Path, tables: dict[str, Any], zipped: bool, flips: list[tuple[float, int]]) -> None:
    file = folder / "file.pt"
    torch.save(tables, file, _use_new_zipfile_serialization=zipped)
    look(file)
    damaged = bytearray(file.read_bytes())
    for place, change in flips:
        damaged[int(place * len(damaged))] ^= change
    file.write_bytes(damaged)
    look(file)
