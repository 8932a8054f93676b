"""Texts of the training images: templates, shuffled parts, placeholders in place of <TOK>."""

from __future__ import annotations

from random import Random

from concept_conductor.training.captions import TEMPLATES, varied, with_placeholders


def test_captions() -> None:
    assert len(TEMPLATES["objects"]) == 27
    assert len(TEMPLATES["people"]) == 19
    assert with_placeholders("a <TOK> here", ["<a>", "<b>"]) == "a <a> <b> here"
    assert varied("a <TOK>, x", ["photo of {}"], True, Random(0)) == "photo of a <TOK>, x"
    assert varied(None, ["the {}"], True, Random(0)) == "the <TOK>"
    assert varied(None, ["{}"], True, Random(0)) == "photo of a <TOK>"
    texts = {varied("a <TOK>, x, y", ["{}"], True, Random(seed)) for seed in range(20)}
    assert texts == {"a <TOK>, x, y", "a <TOK>, y, x"}
    assert {varied("a <TOK>, x, y", ["{}"], False, Random(seed)) for seed in range(20)} == {"a <TOK>, x, y"}
