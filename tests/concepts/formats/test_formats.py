"""Reading and writing concept files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.formats import ed_lora, native
from concept_conductor.concepts.formats.convert import ConceptFormat
from concept_conductor.errors import ConceptFileError, ConductorError
from tests.concepts.conftest import concept, published
from tests.conftest import TINY

WITH_TOKENS = (ConceptFormat.ours, ConceptFormat.mixofshow)


def same(a: Concept, b: Concept) -> bool:
    """Whether two concepts have the same tensors under the same names in the same order of placeholders."""

    def flat(one: Concept) -> list[tuple[str, torch.Tensor]]:
        parts = [(f"{e} {name}", v) for e, table in enumerate(one.tokens) for name, v in table.items()]
        for where, layers in enumerate((*one.text_encoders, one.unet)):
            for name in sorted(layers):
                parts += [(f"{where} {name} {half}", tensor) for half, tensor in layers[name]._asdict().items()]
        return parts

    ours, theirs = flat(a), flat(b)
    return [name for name, _ in ours] == [name for name, _ in theirs] and all(
        torch.equal(x, y) and x.dtype == y.dtype for (_, x), (_, y) in zip(ours, theirs, strict=True)
    )


def test_a_published_file_is_read() -> None:
    chow = Concept.load(TINY / "chow_dog.pth")
    assert chow.placeholders == ("<chow_dog_1>", "<chow_dog_2>")
    assert chow.tokens[0]["<chow_dog_1>"].shape == (16, 32)
    assert len(chow.unet) == 128
    assert "encoder.layers.0.self_attn.q_proj" in chow.text_encoders[0]
    assert chow.unet["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"].down.shape == (4, 16)


def test_ours_and_mixofshow_round_trip(tmp_path: Path) -> None:
    chow = Concept.load(TINY / "chow_dog.pth")
    ours = Concept.load(chow.save(tmp_path / "chow.safetensors"))
    assert same(chow, ours)
    again = Concept.load(ed_lora.save(ours, tmp_path / "again.pth"))
    assert same(chow, again)
    published_file = torch.load(TINY / "chow_dog.pth", weights_only=True)["params"]
    written = torch.load(tmp_path / "again.pth", weights_only=True)["params"]
    assert {table: set(published_file[table]) for table in published_file} == {t: set(written[t]) for t in written}


@pytest.mark.parametrize("encoders", [1, 2])
@pytest.mark.parametrize("format", WITH_TOKENS)
def test_both_families_round_trip(tmp_path: Path, encoders: int, format: ConceptFormat) -> None:
    toy = concept(encoders)
    again = Concept.load(format.save(toy, tmp_path / f"toy{format.suffix}"))
    assert same(toy, again)
    assert again.placeholders == ("<toy_2>", "<toy_1>")


def test_the_wrapper_is_optional(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "plain.pth")
    torch.save({"params": published()}, tmp_path / "wrapped.pth")
    assert Concept.load(tmp_path / "plain.pth").placeholders == Concept.load(tmp_path / "wrapped.pth").placeholders


def test_metadata_survives(tmp_path: Path) -> None:
    toy = concept()
    path = toy.save(tmp_path / "toy.safetensors")
    assert Concept.load(path).metadata == toy.metadata
    assert Concept.load(path).name == "toy"
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == "concept-conductor"
    assert header["family"] == "sd15"


@given(
    rank=st.integers(1, 5),
    layers=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    names=st.lists(
        st.text("abc <>._-é1", min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=4, unique=True
    ),
)
@settings(max_examples=20, deadline=None)
def test_any_concept_round_trips(
    tmp_path_factory: pytest.TempPathFactory, rank: int, layers: int, dtype: torch.dtype, names: list[str]
) -> None:
    toy = Concept(
        name="any",
        tokens=({name: torch.randn(layers, 3).to(dtype) for name in names},),
        unet={"a.to_q": LowRank(torch.randn(rank, 3).to(dtype), torch.randn(2, rank).to(dtype))},
    )
    folder = tmp_path_factory.mktemp("any")
    for format in WITH_TOKENS:
        assert same(toy, Concept.load(format.save(toy, folder / f"any{format.suffix}")))


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = concept().save(tmp_path / "toy.safetensors")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ConductorError, match="disk is full"):
        concept().save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["toy.safetensors"]


def test_shipped_names_stay_in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    concept().save(shipped / "dog-noto.safetensors")
    concept().save(tmp_path / "secret.safetensors")
    monkeypatch.setattr("concept_conductor.mini.CONCEPTS_FOLDER", shipped)
    assert Concept.load("mini/dog-noto").name == "toy"
    for bad in ("mini/../secret", "mini/nothing", "mini/", "mini//etc/passwd", "mini/.", "mini/dog-noto/../dog-noto"):
        with pytest.raises(ConceptFileError, match="no shipped concept.*mini/dog-noto"):
            Concept.load(bad)


def test_a_file_on_disk_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    concept().save(tmp_path / "mini" / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    assert Concept.load("mini/mine.safetensors").name == "toy"


def test_our_own_suffix_is_not_needed(tmp_path: Path) -> None:
    assert Concept.load(native.save(concept(), tmp_path / "no_suffix")).name == "toy"
