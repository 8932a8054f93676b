"""Files that must be refused, each with one clear sentence."""

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
from concept_conductor.errors import ConceptFileError
from tests.concepts.conftest import DIM, concept, published
from tests.conftest import TINY


class Bomb:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def refused(path: Path, *words: str) -> None:
    """The file is refused in one sentence that names it and holds all ``words``."""
    with pytest.raises(ConceptFileError) as error:
        Concept.load(path)
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert all(word in message for word in words), message


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


TABLES = "new_concept_embedding"


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        (published(unet={"a.lora_down.weight": torch.ones(2, 4)}), ("a.lora_down.weight", "partner")),
        (published(unet={"a.lora_up.weight": torch.ones(4, 2)}), ("a.lora_up.weight", "partner")),
        (published(unet={"a.alpha": torch.ones(1)}), ("a.alpha",)),
        (published(unet={"a.lora_down.weight": "x", "a.lora_up.weight": "y"}), ("str",)),
        (published(unet=[1]), ("list", "unet")),
        (
            published(unet={"a.lora_down.weight": torch.ones(2, 4), "a.lora_up.weight": torch.ones(4, 3)}),
            ("ranks 2", "3"),
        ),
        (published(unet={"a.lora_down.weight": torch.ones(2, 4), "a.lora_up.weight": torch.ones(4)}), ("matrix",)),
        (
            published(unet={"a.lora_down.weight": torch.ones(2, 4).int(), "a.lora_up.weight": torch.ones(4, 2)}),
            ("int32",),
        ),
        (
            published(unet={"a.lora_down.weight": torch.full((2, 4), torch.nan), "a.lora_up.weight": torch.ones(4, 2)}),
            ("undefined",),
        ),
        (
            published(unet={"a.lora_down.weight": torch.ones(2, 4), "a.lora_up.weight": torch.full((4, 2), torch.inf)}),
            ("infinite",),
        ),
        (
            published(unet={"a.lora_down.weight": torch.ones(2000, 1), "a.lora_up.weight": torch.ones(1, 2000)}),
            ("rank 2000",),
        ),
        (published(**{TABLES: {}}), ("0 placeholders",)),
        (published(**{TABLES: {"": torch.ones(16, DIM)}}), ("placeholder ''",)),
        (published(**{TABLES: {"<\n>": torch.ones(16, DIM)}}), ("printable",)),
        (published(**{TABLES: {"<a>": torch.ones(DIM)}}), ("matrix",)),
        (published(**{TABLES: {"<a>": torch.ones(16, 3), "<b>": torch.ones(16, 4)}}), ("different shapes",)),
        (published(**{TABLES: {"<a>": torch.ones(1000, 3)}}), ("1000",)),
        (published(**{TABLES: {"<a>": torch.ones(99, 16, 3)}}), ("99", "positions")),
        (published(**{TABLES: {f"<{i}>": torch.ones(1, 1) for i in range(100)}}), ("100 placeholders",)),
        (published(new_concept_embedding_2={"<c>": torch.ones(16, DIM)}), ("<c>", "same")),
        (published(text_encoder_2={"a": torch.ones(1)}), ("text_encoder_2",)),
        (published(vae={}), ("vae",)),
        (published(unet={"a.lora_down.weight": torch.ones(1, 1).expand(5000, 5000)}), ("more numbers",)),
        (published(unet={"a.lora_down.weight": torch.ones(2, 2).to_sparse()}), ("sparse",)),
        (published(unet={"a.lora_down.weight": torch.ones(1, 1 << 18)}), ("absurd",)),
        (published(unet={1: torch.ones(1, 1)}), ("names are not text",)),
        ([1, 2], ("list",)),
    ],
)
def test_malformed_published_files(tmp_path: Path, tables: Any, words: tuple[str, ...]) -> None:
    torch.save(tables, tmp_path / "bad.pth")
    refused(tmp_path / "bad.pth", *words)


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


def header(**changes: str) -> dict[str, str]:
    return {
        "format": "concept-conductor",
        "format_version": "1",
        "placeholders": '["<a>"]',
        **changes,
    }


@pytest.mark.parametrize(
    ("metadata", "tensors", "words"),
    [
        (header(format_version="99"), {}, ("version '99'", "update")),
        (header(placeholders="["), {}, ("placeholders", "JSON")),
        (header(placeholders="7"), {}, ("list",)),
        (header(placeholders='["<a>", "<a>"]'), {}, ("placeholders", "twice")),
        (header(), {"tokens.0.<b>": torch.ones(1, 2)}, ("<a>",)),
        (header(), {}, ("made for 0 text encoders",)),
        (header(format_version="2", text_encoders="3"), {}, ("made for 3 text encoders",)),
        (header(), {"unet.a.down": torch.ones(1, 2), "unet.a.weight": torch.ones(1, 2)}, ("one half",)),
        (header(), {"unet.a.down": torch.ones(1, 2)}, ("one half",)),
        (header(), {"stray": torch.ones(1)}, ("stray", "belong to nothing")),
        (header(), {"text_encoder.3.a.down": torch.ones(1, 2), "text_encoder.3.a.up": torch.ones(2, 1)}, ("nothing",)),
    ],
)
def test_malformed_files_of_ours(
    tmp_path: Path, metadata: dict[str, str], tensors: dict[str, torch.Tensor], words: tuple[str, ...]
) -> None:
    tokens = {} if words[0].startswith(("<a>", "made")) else {"tokens.0.<a>": torch.ones(1, 2)}
    save_file({**tokens, **tensors}, tmp_path / "bad.safetensors", metadata=metadata)
    refused(tmp_path / "bad.safetensors", *words)


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        (["lora_unet_x.hada_w1_a"], "LoHa"),
        (["lora_unet_x.lokr_w1"], "LoKr"),
        (["lora_unet_x.oft_blocks"], "OFT"),
        (["lora_unet_x.a1.weight"], "GLoRA"),
        (["lora_unet_x.dora_scale", "lora_unet_x.lora_down.weight"], "DoRA"),
        (["unet.a.lora_magnitude_vector", "unet.a.lora_A.weight"], "DoRA"),
        (["lora_unet_x.lora_down.weight", "lora_unet_x.lora_mid.weight"], "Tucker"),
        (["lora_unet_x.diff"], "full difference"),
        (["lora_unet_double_blocks_0_img_attn_proj.lora_down.weight"], "Flux"),
        (["transformer.single_transformer_blocks.0.proj_out.lora_A.weight"], "Flux"),
        (["model.diffusion_model.input_blocks.0.weight"], "whole checkpoint"),
        (["time_embedding.linear_1.weight", "conv_in.weight"], "diffusers U-Net"),
        (["something", "else"], "no concept that is known"),
    ],
)
def test_other_kinds_are_named(tmp_path: Path, keys: list[str], kind: str) -> None:
    tensors = {key: torch.ones(1, 2) for key in keys}
    save_file(tensors, tmp_path / "other.safetensors")
    torch.save(tensors, tmp_path / "other.pt")
    refused(tmp_path / "other.safetensors", kind)
    refused(tmp_path / "other.pt", kind)


def test_the_fixture_itself_is_fine() -> None:
    assert Concept.load(TINY / "red_robot.pth").placeholders == ("<red_robot_1>", "<red_robot_2>")
