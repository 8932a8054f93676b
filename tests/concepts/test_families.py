"""Families are told by shapes and names, and concepts of others are refused."""

from __future__ import annotations

import pytest
import torch

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import FullWeight, LowRank, Update
from concept_conductor.concepts.families import check, cross_attention_width, family_of
from concept_conductor.errors import FamilyError

TO_K = "up_blocks.1.attentions.0.transformer_blocks.{}.attn2.to_k"


def low_rank(width: int) -> LowRank:
    return LowRank(torch.ones(2, width), torch.ones(4, 2))


@pytest.mark.parametrize(
    ("unet", "text", "family"),
    [
        ({TO_K.format(0): low_rank(768)}, {}, "sd15"),
        ({TO_K.format(0): FullWeight(torch.ones(4, 1024))}, {}, "sd21"),
        ({TO_K.format(0): low_rank(2048)}, {}, "sdxl"),
        ({TO_K.format(1).replace("attn2", "attn1"): low_rank(8)}, {}, "sdxl"),  # others have one block in each
        ({"add_embedding.linear_1": low_rank(2816)}, {}, "sdxl"),
        ({}, {"encoder.layers.0.self_attn.q_proj": low_rank(1024)}, "sd21"),
        ({}, {"encoder.layers.0.self_attn.q_proj": low_rank(768)}, None),  # SD1.5's and SDXL's first are alike
        ({"conv_in": LowRank(torch.ones(2, 4, 3, 3), torch.ones(4, 2))}, {}, None),
        ({}, {}, None),
    ],
)
def test_what_tells_a_family(unet: dict[str, Update], text: dict[str, Update], family: str | None) -> None:
    assert family_of(Concept("toy", text_encoders=(text,), unet=unet)) == family or (not unet and not text)


def test_a_concept_of_nothing_is_of_no_family() -> None:
    assert family_of(Concept("toy")) is None
    assert family_of(Concept("toy", ({"<a>": torch.ones(2, 1, 768)},))) == "sd15"
    assert family_of(Concept("toy", ({"<a>": torch.ones(2, 1, 1024)},))) == "sd21"
    assert family_of(Concept("toy", ({}, {}))) == "sdxl"


def test_parts_of_two_families_are_named() -> None:
    mixed = Concept("toy", unet={TO_K.format(0): low_rank(768), TO_K.format(1): low_rank(2048)})
    with pytest.raises(FamilyError, match=r"'toy' mixes families: .*768 is SD1.5's but .*2048 is SDXL's"):
        family_of(mixed)


@pytest.mark.parametrize(
    ("width", "text_width", "encoders", "sentence"),
    [
        (768, 768, 1, None),
        (768, 1024, 1, "made for SD1.5, .*width 768, but this model's reads 1024"),
        (2048, 768, 1, r"made for models with 2 text encoders \(SDXL\), but this model has one"),
        (768, 2048, 2, r"made for models with one text encoder \(SD1.5\), but this model has 2"),
    ],
)
def test_a_model_takes_concepts_of_its_own_family(
    width: int, text_width: int, encoders: int, sentence: str | None
) -> None:
    tables = ({},) * (2 if width == 2048 else 1)
    toy = Concept("toy", tables, tables, {TO_K.format(0): low_rank(width)})
    assert cross_attention_width(toy) == width
    if sentence is None:
        check(toy, text_width, encoders)
    else:
        with pytest.raises(FamilyError, match=sentence):
            check(toy, text_width, encoders)
