"""One concept out of several files' parts."""

from __future__ import annotations

import pytest
import torch

from concept_conductor.concepts.data import ConceptPart, LowRank
from concept_conductor.concepts.merge import merge
from concept_conductor.errors import ConceptFileError

TO_K = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
Q_PROJ = "encoder.layers.0.self_attn.q_proj"


def low_rank(width: int) -> LowRank:
    return LowRank(torch.ones(2, width), torch.ones(4, 2))


def test_parts_are_put_together_under_the_first_ones_name() -> None:
    lora = ConceptPart("dog", unet={TO_K: low_rank(768)}, metadata={"author": "me", "step": "1"})
    token = ConceptPart("token", ({"<a>": torch.ones(1, 768)},), metadata={"step": "2", "note": "n"})
    text = ConceptPart("text", text_encoders=({Q_PROJ: low_rank(768)},))
    whole = merge([lora, token, text])
    assert (whole.name, whole.placeholders) == ("dog", ("<a>",))
    assert set(whole.unet) == {TO_K} and set(whole.text_encoders[0]) == {Q_PROJ}
    assert whole.metadata == {"author": "me", "step": "1", "note": "n"}


def test_sdxl_has_tables_for_two_text_encoders() -> None:
    whole = merge([ConceptPart("dog", unet={TO_K: low_rank(2048)})])
    assert whole.tokens == ({}, {}) and whole.text_encoders == ({}, {})
    first, second = ({"<a>": torch.ones(1, 768)},), ({}, {"<a>": torch.ones(1, 1280)})
    whole = merge([ConceptPart("one", first), ConceptPart("two", second, ({}, {}))])
    assert [table["<a>"].shape[1] for table in whole.tokens] == [768, 1280]


def test_contradictions_are_named() -> None:
    one, other = ({"<a>": torch.ones(1, 8)},), ({"<a>": torch.zeros(1, 8)},)
    assert merge([ConceptPart("a", one), ConceptPart("b", one)]).placeholders == ("<a>",)
    with pytest.raises(ConceptFileError, match="different vectors for the placeholder '<a>'"):
        merge([ConceptPart("a", one), ConceptPart("b", other)])
    update = {TO_K: low_rank(8)}
    with pytest.raises(ConceptFileError, match=f"weights for the U-Net's layer '{TO_K}'"):
        merge([ConceptPart("a", unet=update), ConceptPart("b", unet=update)])
    text = ({Q_PROJ: low_rank(8)},)
    with pytest.raises(ConceptFileError, match=f"weights for the text encoder's layer '{Q_PROJ}'"):
        merge([ConceptPart("a", text_encoders=text), ConceptPart("b", text_encoders=text)])
    with pytest.raises(ConceptFileError, match="must be the same"):
        merge([ConceptPart("a", ({"<a>": torch.ones(1, 8)}, {"<b>": torch.ones(1, 8)}), ({}, {}))])
