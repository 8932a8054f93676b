"""Prompts as token ids with placeholders among them, and texts stacked for all paths."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from transformers import CLIPTokenizer

from concept_conductor.backbones.conditioning import Conditioning, TokenizedPrompt, placeholder_embeddings, tokenize
from concept_conductor.errors import ConductorError
from tests.conftest import TINY

LENGTH = 77


@cache
def tokenizer() -> CLIPTokenizer:
    """A token for every letter."""
    return CLIPTokenizer.from_pretrained(TINY / "tokenizer")


def test_a_prompt_without_placeholders_is_the_tokenizers_own() -> None:
    found = tokenize(tokenizer(), "A dog, on the beach.", ())
    assert found.ids.tolist() == tokenizer()("A dog, on the beach.", padding="max_length").input_ids
    assert not found.placeholders


def test_each_placeholder_takes_its_positions() -> None:
    found = tokenize(tokenizer(), "a <a> <b> at <a>", ["<a>", "<b>"], {"<a>": 3})
    assert found.placeholders == {2: "<a>", 5: "<b>", 8: "<a>"}  # start, a, three of <a>, <b>, a, t, three of <a>
    assert found.ids.shape == (LENGTH,)
    assert found.ids.tolist().index(tokenizer().eos_token_id) == 11


def test_the_longer_of_two_names_is_found() -> None:
    assert tokenize(tokenizer(), "<a>1 <a>", ["<a>", "<a>1"]).placeholders == {1: "<a>1", 2: "<a>"}


def test_placeholders_that_are_words_match_whole_words() -> None:
    text = tokenize(tokenizer(), "art in a cart, arts and art", ["art"], {"art": 2})
    assert list(text.placeholders.values()) == ["art", "art"]
    assert 1 in text.placeholders


def test_what_comes_after_the_encoders_length_is_cut_off() -> None:
    found = tokenize(tokenizer(), "a <a> " + "beach " * 40, ["<a>"])
    assert found.ids.shape == (LENGTH,) and found.ids[-1] == tokenizer().eos_token_id
    assert found.placeholders == {2: "<a>"}


def test_positions_beyond_the_text_are_refused() -> None:
    assert tokenize(tokenizer(), "<mug>", ["<mug>"], {"<mug>": 75}).ids.shape == (LENGTH,)
    with pytest.raises(ConductorError, match="<mug> comes after the 75 tokens"):
        tokenize(tokenizer(), "<mug>", ["<mug>"], {"<mug>": 76})
    with pytest.raises(ConductorError, match="<mug> comes after the 75 tokens"):
        tokenize(tokenizer(), "beach " * 40 + "<mug>", ["<mug>"])


def test_the_embedding_gives_each_layers_vectors_at_the_placeholders() -> None:
    """Two prompts in three layers' rows: several positions, several layers, and one vector for all layers."""
    embedding = nn.Embedding(9, 4)
    ids = torch.tensor([[1, 0, 0, 2], [0, 3, 4, 5]])
    prompts = [TokenizedPrompt(ids[0], {1: "<two>"}), TokenizedPrompt(ids[1], {0: "<each>", 3: "<one>"})]
    tokens = {"<two>": torch.randn(2, 3, 4), "<each>": torch.randn(3, 4), "<one>": torch.randn(1, 4)}
    rows = ids.repeat_interleave(3, 0)
    tokens["<each>"].requires_grad_()
    with placeholder_embeddings(embedding, prompts, tokens, layers=3):
        got = embedding(rows).unflatten(0, (2, 3))  # (prompts, layers, positions, dim)
    plain = embedding(rows).unflatten(0, (2, 3))  # outside of the context nothing is left of it
    expected = plain.detach().clone()
    for layer in range(3):
        expected[0, layer, 1:3] = tokens["<two>"][:, layer]
        expected[1, layer, 0] = tokens["<each>"][layer].detach()
        expected[1, layer, 3] = tokens["<one>"][0]
    torch.testing.assert_close(got, expected)
    got[1, 2, 0].sum().backward()  # training reaches the vectors
    assert tokens["<each>"].grad is not None
    assert tokens["<each>"].grad.tolist() == [[0] * 4, [0] * 4, [1] * 4]


def halves(value: float, pooled: bool) -> list[Conditioning]:
    """One path's conditional and unconditional text."""
    return [
        Conditioning(torch.full((1, 1, 2, 5, 3), value + half), torch.full((1, 1, 6), value + half) if pooled else None)
        for half in (0.0, 0.5)
    ]


@pytest.mark.parametrize("pooled", [True, False])
def test_texts_are_stacked_by_path_and_then_by_guidance(pooled: bool) -> None:
    text = Conditioning.stack([halves(1, pooled), halves(2, pooled), halves(3, pooled)])
    assert text.texts.shape == (3, 2, 2, 5, 3)
    assert text.texts[:, :, 0, 0, 0].tolist() == [[1, 1.5], [2, 2.5], [3, 3.5]]
    assert text.conditional.texts[:, :, 0, 0, 0].tolist() == [[1], [2], [3]]
    if pooled:
        assert text.pooled is not None and text.pooled.shape == (3, 2, 6)
        assert text.pooled[:, :, 0].tolist() == [[1, 1.5], [2, 2.5], [3, 3.5]]
        assert text.conditional.pooled is not None and text.conditional.pooled.shape == (3, 1, 6)
    else:
        assert text.pooled is None and text.conditional.pooled is None


def test_without_guidance_the_conditional_half_is_all_there_is() -> None:
    text = Conditioning.stack([halves(1, pooled=False)])
    assert text.conditional is not text and text.conditional is text.conditional
    assert text.conditional.conditional is text.conditional
