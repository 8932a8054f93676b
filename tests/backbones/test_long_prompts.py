"""Prompts that are longer than the text encoder reads: cut with a warning, or encoded in parts."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from concept_conductor import Concept, ConceptConductorPipeline, ConceptPrompt, ConductorError
from concept_conductor.backbones.conditioning import tokenize, tokenize_chunks
from concept_conductor.pipeline.inputs import Prompts, encode_texts

LONG = "a dog on the beach, " + ", ".join(f"thing number {n}" for n in range(30)) + ", and a red bicycle"


@pytest.fixture(scope="module")
def tokenizer(tiny_pipe: ConceptConductorPipeline) -> Any:
    return tiny_pipe.tokenizer


def test_what_is_cut_is_named(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tokenize(tokenizer, "a dog", ())
        assert not caplog.text
        ids = tokenize(tokenizer, LONG, ()).ids
    assert ids.shape == (77,)
    assert "but the text encoder reads 75" in caplog.text and "chunk_prompts=True" in caplog.text


def test_a_short_prompt_has_one_part_that_is_the_same(tokenizer: Any) -> None:
    (part,) = tokenize_chunks(tokenizer, "a <x> dog", ["<x>"], {"<x>": 3})
    whole = tokenize(tokenizer, "a <x> dog", ["<x>"], {"<x>": 3})
    assert part.ids.tolist() == whole.ids.tolist() and part.placeholders == whole.placeholders


def test_parts_hold_every_token_in_order_and_divide_no_word(tokenizer: Any) -> None:
    parts = tokenize_chunks(tokenizer, LONG, ())
    assert len(parts) > 1
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    found = [token for part in parts for token in part.ids.tolist() if token not in ends]
    assert found == tokenizer(LONG, add_special_tokens=False)["input_ids"]
    for part in parts:
        last = [token for token in part.ids.tolist() if token not in ends][-1]
        assert tokenizer.convert_ids_to_tokens(last).endswith("</w>")


def test_a_placeholder_of_several_positions_is_not_divided(tokenizer: Any) -> None:
    fill = " ".join(["a"] * 70)
    first, second = tokenize_chunks(tokenizer, f"{fill} <x> a", ["<x>"], {"<x>": 8})
    assert not first.placeholders and second.placeholders == {1: "<x>"}
    with pytest.raises(ConductorError, match="takes 76 positions, but the text encoder reads 75"):
        tokenize_chunks(tokenizer, "<x>", ["<x>"], {"<x>": 76})


@pytest.mark.parametrize("model", ["tiny_pipe", "tiny_xl"])
def test_each_part_is_encoded_like_a_prompt_of_its_own(model: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(model).backbone
    chunks = backbone.count_chunks(LONG)
    whole = backbone.encode_prompt(LONG, chunks=chunks)
    tokens = backbone.text_encoders[0].tokenizer.model_max_length
    assert whole.texts.shape[3] == chunks * tokens
    short = backbone.encode_prompt("a dog", chunks=2)
    alone, empty = backbone.encode_prompt("a dog"), backbone.encode_prompt("")
    assert torch.allclose(short.texts[..., :tokens, :], alone.texts, atol=1e-5)
    assert torch.allclose(short.texts[..., tokens:, :], empty.texts, atol=1e-5)
    if alone.pooled is not None:
        assert torch.allclose(short.pooled, alone.pooled, atol=1e-5)


def test_all_paths_have_as_many_parts_as_the_longest(
    tiny_pipe: ConceptConductorPipeline, tiny_concepts: dict[str, ConceptPrompt]
) -> None:
    entry = tiny_concepts["chow_dog"]
    backbone = tiny_pipe.backbone
    texts = encode_texts(backbone, Prompts("a dog", LONG), [entry], unconditional=True, chunked=True)
    chunks = backbone.count_chunks(LONG)
    assert texts.texts.shape[:2] == (2, 2) and texts.texts.shape[3] == 77 * chunks
    own = backbone.encode_concept_prompts(entry.concept, entry.weight, [entry.prompt])[0]
    assert torch.allclose(texts.texts[1, 0, :, :77], own.texts[0, 0], atol=1e-5)


def test_the_end_of_a_long_prompt_changes_the_image(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]
) -> None:
    concept = Concept("plain")
    call = {**tiny_call, "num_inference_steps": 2, "generator": 0, "chunk_prompts": True}
    made = [
        tiny_pipe(**{**call, "prompt": prompt, "concepts": [ConceptPrompt(concept, prompt), tiny_call["concepts"][1]]})
        for prompt in (LONG, LONG.replace("bicycle", "boat"))
    ]
    assert not torch.allclose(made[0].images, made[1].images, atol=1e-4)
    cut = [
        tiny_pipe(
            **{
                **call,
                "chunk_prompts": False,
                "prompt": prompt,
                "concepts": [ConceptPrompt(concept, prompt), tiny_call["concepts"][1]],
            }
        )
        for prompt in (LONG, LONG.replace("bicycle", "boat"))
    ]
    assert torch.allclose(cut[0].images, cut[1].images, atol=1e-6)


def test_a_trace_needs_prompts_that_are_read_at_once(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], tmp_path: Any
) -> None:
    with pytest.raises(ConductorError, match="leave out chunk_prompts="):
        tiny_pipe(LONG, num_inference_steps=1, chunk_prompts=True, trace=tmp_path / "trace")
