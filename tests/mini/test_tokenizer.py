"""The tokenizer: the world's words are one token each, all others are spelt."""

import pytest

from concept_conductor.mini import tokenizer


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return tokenizer.build(tmp_path_factory.mktemp("tokenizer"))


def test_known_words_are_one_token(small):
    assert all(len(small.tokenize(word)) == 1 for word in tokenizer.words())
    assert small.tokenize("Two cats, at night.") == ["two</w>", "cats</w>", ",</w>", "at</w>", "night</w>", ".</w>"]


def test_unknown_words_are_spelt(small):
    for text in ("zebra", "xylophone", "köln"):
        ids = small(text).input_ids
        assert len(ids) > 3 and small.unk_token_id not in ids[1:-1]
        assert small.decode(ids, skip_special_tokens=True).strip() == text


def test_length_and_padding(small):
    ids = small(["a dog"], padding="max_length", max_length=tokenizer.LENGTH).input_ids[0]
    assert small.model_max_length == len(ids) == tokenizer.LENGTH
    assert ids[0] == small.bos_token_id and set(ids[3:]) == {small.eos_token_id}


def test_placeholders_can_be_added(small, tmp_path):
    own = tokenizer.build(tmp_path)
    assert own.add_tokens(["<toy_1>", "<toy_2>"]) == 2
    assert own.tokenize("a <toy_1> <toy_2> at night") == ["a</w>", "<toy_1>", "<toy_2>", "at</w>", "night</w>"]
