"""Files that nobody vouches for: read without harm, or refused in one clear sentence."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats import weight_file
from concept_conductor.concepts.inspection import inspect
from concept_conductor.errors import ConceptFileError
from tests.concepts.conftest import concept, published
from tests.concepts.files import Shadowed, refused


class Bomb:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("wrapped", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, protocol: int, wrapped: bool) -> None:
    mark = tmp_path / "mark"
    content: Any = {"params": published(extra=Bomb(mark))} if wrapped else Bomb(mark)
    torch.save(content, tmp_path / "zip.pth", pickle_protocol=protocol)
    torch.save(content, tmp_path / "old.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(content, protocol=protocol))
    for name in ("zip.pth", "old.pth", "bare.pth"):
        refused(tmp_path / name)
        assert not mark.exists()
    refused(tmp_path / "zip.pth", "could run code", "safetensors")


def test_missing_empty_folder_and_text(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.pth", "no concept file")
    refused(tmp_path, "folder without")
    for name, data, word in (
        ("empty.pth", b"", "empty"),
        ("page.pth", b"<!DOCTYPE html><html>not found</html>", "neither"),
        ("short", b"abc", "neither"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, word)


def test_too_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = concept().save(tmp_path / "toy.safetensors")
    monkeypatch.setattr(weight_file, "MAX_FILE_BYTES", 100)
    refused(path, "GiB")


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_truncated_and_flipped_files_never_do_worse_than_refuse(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    torch.save(published(), folder / "a.pth")
    concept().save(folder / "b.safetensors")
    for path in (folder / "a.pth", folder / "b.safetensors"):
        whole = path.read_bytes()
        cut = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(whole))
        path.write_bytes(whole[:cut])
        with pytest.raises(ConceptFileError):
            Concept.load(path)
        flipped = bytearray(whole)
        flipped[cut] ^= data.draw(st.integers(1, 255))
        path.write_bytes(flipped)
        try:
            Concept.load(path)  # a flipped bit inside of a number cannot be seen
        except ConceptFileError as error:
            assert "\n" not in str(error)


def test_a_table_that_contains_itself(tmp_path: Path) -> None:
    loop = published()
    loop["unet"]["again"] = loop
    torch.save(loop, tmp_path / "loop.pth")
    refused(tmp_path / "loop.pth", "levels")


def test_an_archive_that_swells(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * (64 << 20))
    (tmp_path / "bomb.pth").write_bytes(buffer.getvalue())
    refused(tmp_path / "bomb.pth", "unpack")


def test_a_header_that_lies(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "lie.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    refused(tmp_path / "lie.safetensors")


def test_a_header_of_100_gigabytes(tmp_path: Path) -> None:
    for length in (100 << 30, (1 << 64) - 1):
        (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", length) + b'{"a":1}' + b" " * 100)
        refused(tmp_path / "long.safetensors", "damaged or truncated")


def test_safetensors_that_begin_like_a_pickle(tmp_path: Path) -> None:
    """A header of 0x..80 bytes."""
    plain = concept()
    for filling in range(256):
        path = Concept("toy", plain.tokens, unet=plain.unet, metadata={"note": "x" * filling}).save(tmp_path / "toy")
        if path.read_bytes()[0] == 0x80:
            break
    assert path.read_bytes()[0] == 0x80
    assert Concept.load(path).name == "toy"


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_numbers_of_eight_bits_are_widened_wherever_they_stand(tmp_path: Path, kind: torch.dtype) -> None:
    """Weights, an alpha of 6 over rank 2, and embeddings: all of them numbers that eight bits hold."""
    layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    numbers = torch.tensor([[0.5, -1.5, 448.0], [2.0, 0.125, -0.25]])
    lora = {"lora_down.weight": numbers, "lora_up.weight": numbers.T.contiguous(), "alpha": torch.tensor(6.0)}
    state = {f"{layer}.{part}": tensor.to(kind) for part, tensor in lora.items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    save_file({"<a>": numbers.to(kind)}, tmp_path / "token.safetensors")
    for name in ("a.safetensors", "a.pt"):
        (update,) = Concept.load(tmp_path / name).unet.values()
        assert update.down.dtype == torch.float16
        torch.testing.assert_close(update.down.float(), numbers.to(kind).float(), rtol=0, atol=0)
        torch.testing.assert_close(update.up, 3 * numbers.T.to(kind).float(), rtol=0, atol=0)
    (vectors,) = Concept.load(tmp_path / "token.safetensors").tokens[0].values()
    torch.testing.assert_close(vectors[:, 0].float(), numbers.to(kind).float(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["F4", "F8_E8M0", "F6_E2M3", "C64", "U16"])
def test_number_types_that_cannot_be_computed_with(tmp_path: Path, kind: str) -> None:
    bits = {"F4": 4, "F8_E8M0": 8, "F6_E2M3": 6, "C64": 64, "U16": 16}[kind]
    header = json.dumps({"<a>": {"dtype": kind, "shape": [1, 8], "data_offsets": [0, bits]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(bits))
    refused(tmp_path / "a.safetensors", "'<a>'", kind, "float16")


@pytest.mark.filterwarnings("ignore")  # of prototypes, and of what is deprecated
def test_tensors_that_are_no_numbers(tmp_path: Path) -> None:
    parts = [torch.ones(2), torch.ones(3)]
    hostile = {
        "nested": torch.nested.nested_tensor(parts),
        "jagged": torch.nested.nested_tensor(parts, layout=torch.jagged),
        "scale": torch.ones(1, 8).to(torch.float8_e8m0fnu),
        "uint16": torch.ones(1, 8).to(torch.uint16),
        "meta": torch.ones(1, 8, device="meta"),
        "quantized": torch.quantize_per_tensor(torch.ones(1, 8), 1.0, 0, torch.qint8),
    }
    for name, tensor in hostile.items():
        torch.save({"<a>": tensor}, tmp_path / f"{name}.pt")
        refused(tmp_path / f"{name}.pt", "'<a>'")


def test_attributes_that_hide_methods_are_not_asked(tmp_path: Path) -> None:
    vectors = torch.ones(2, 8)
    vectors.isfinite = vectors.float = vectors.half = 3  # type: ignore[method-assign,assignment]
    torch.save({"string_to_param": Shadowed({"<a>": vectors})}, tmp_path / "a.pt")
    hidden = torch.load(tmp_path / "a.pt", weights_only=True)["string_to_param"]
    assert hidden.items == 3 and hidden["<a>"].isfinite == 3
    concept = Concept.load(tmp_path / "a.pt")
    assert concept.positions == {"<a>": 2} and not vars(concept.tokens[0]["<a>"])


@pytest.mark.parametrize("name", ["x" * 301, "a\nb", "a\x1b[2Jb", "a\u202eb", "\x7f"])
def test_names_that_no_tensor_has(tmp_path: Path, name: str) -> None:
    save_file({name: torch.ones(1, 8)}, tmp_path / "a.safetensors")
    torch.save({"string_to_param": {name: torch.ones(1, 8)}}, tmp_path / "a.pt")
    for file in ("a.safetensors", "a.pt"):
        refused(tmp_path / file, "a tensor called", f"{len(name)} characters" if file != "a.pt" else "printable")
        message = inspect(tmp_path / file).problem
        assert message is not None and message.isprintable() and len(message) < 300


@pytest.mark.parametrize("text", ["[" * 10**5, "[" + "1" * 5000 + "]", "[NaN", " " * (1 << 23), "\ud800"])
def test_json_that_has_no_end(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConceptFileError, match="'a setting' is no JSON"):
        weight_file.parsed_json(tmp_path, "a setting", text)


def test_only_ordinary_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe.pt", tmp_path / "zero.pt", Path("a" * 300), Path("/proc/kmsg")):
        refused(path, "no concept file")
        assert inspect(path).problem is not None


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A file system's names are bytes; a concept's are written into headers and reports."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.safetensors"))
    concept().save(path)
    torch.save(published(), path.with_suffix(".pth"))
    assert Concept.load(path.with_suffix(".pth")).name == "caf\\udce9"
    assert json.loads(inspect(path).model_dump_json())["path"].endswith("caf\\udce9.safetensors")
    path.write_bytes(b"")
    assert "caf\\udce9" in json.loads(inspect(path).model_dump_json())["problem"]
