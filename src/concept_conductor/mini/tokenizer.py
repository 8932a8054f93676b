"""A CLIP tokenizer for a small vocabulary: one token for each word below, bytes for every other word."""

import json
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from concept_conductor.mini.designs import ICONS
from concept_conductor.mini.world import BACKDROPS, caption

LENGTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"

OTHER_WORDS = (
    "a an the one of and with in on at to by from near next left right behind front under over my your this that "
    "photo picture image painting drawing rendering rendition depiction cropped close up bright dark good bad low "
    "high resolution quality small large big little cute cool nice weird dirty clean old new happy sitting standing "
    "red blue green yellow orange purple pink brown black white grey toy toys object animal animals thing things two "
    "three four many some sun moon sky sea sand water street city house home wood light day park"
)
"""Words of prompts beyond the world's own captions."""


def words() -> list[str]:
    """All words that are one token, the world's first."""
    lines = [f"{caption([name], place)} {name}s" for name in ICONS for place in BACKDROPS]
    return list(dict.fromkeys(" ".join([*lines, OTHER_WORDS, ". ,"]).split()))


def build(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer to `folder` and return it; texts have at most `LENGTH` tokens, start and end included."""
    symbols = list(_byte_symbols())
    vocabulary = symbols + [symbol + "</w>" for symbol in symbols]
    merges: list[tuple[str, str]] = []
    splits = [[*word[:-1], word[-1] + "</w>"] for word in words()]
    while any(len(split) > 1 for split in splits):
        # Any complete set of merges will do: take the first pair of the first unfinished word, everywhere.
        pair = next((split[0], split[1]) for split in splits if len(split) > 1)
        merges.append(pair)
        splits = [_merge(split, pair) for split in splits]
    vocabulary = [*dict.fromkeys(vocabulary + [left + right for left, right in merges]), START, END]

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def _merge(split: list[str], pair: tuple[str, str]) -> list[str]:
    """`split` with every occurrence of `pair` joined."""
    if pair not in pairwise(split):
        return split
    merged: list[str] = []
    for symbol in split:
        # A symbol that was itself just joined is longer than the pair's first half and cannot match it.
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def _byte_symbols():
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    yield from map(chr, printable)
    yield from (chr(256 + i) for i in range(256 - len(printable)))
