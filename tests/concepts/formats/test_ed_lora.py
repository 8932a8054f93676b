"""Files of Mix-of-Show and the published Concept Conductor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.formats import ed_lora
from tests.concepts.conftest import DIM, published
from tests.concepts.files import refused, same
from tests.conftest import TINY


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


def test_the_wrapper_is_optional(tmp_path: Path) -> None:
    torch.save(published(), tmp_path / "plain.pth")
    torch.save({"params": published()}, tmp_path / "wrapped.pth")
    assert Concept.load(tmp_path / "plain.pth").placeholders == Concept.load(tmp_path / "wrapped.pth").placeholders


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


def test_the_fixture_itself_is_fine() -> None:
    assert Concept.load(TINY / "red_robot.pth").placeholders == ("<red_robot_1>", "<red_robot_2>")
