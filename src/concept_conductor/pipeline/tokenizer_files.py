"""CLIP tokenizers out of model folders: vocabulary, merges and settings read and checked here, nothing else obeyed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from transformers import AddedToken, CLIPTokenizer

from concept_conductor.backbones.model_files import ModelFiles, first_line
from concept_conductor.errors import ConductorError

MAX_BYTES = 16 * 2**20
NO_LIMIT = int(1e30)
"""How transformers writes down that a tokenizer has no length of its own."""

END = "<|endoftext|>"
DEFAULTS = {"bos_token": "<|startoftext|>", "eos_token": END, "unk_token": END, "pad_token": END}
"""CLIP's own special tokens."""
SPECIAL = tuple(DEFAULTS)
OBEYED = (*SPECIAL, "model_max_length", "added_tokens_decoder")
FLAGS = {"lstrip", "rstrip", "single_word", "normalized", "special"}
IGNORED = frozenset({
    "add_bos_token", "add_eos_token", "additional_special_tokens", "backend", "clean_up_tokenization_spaces",
    "extra_special_tokens", "is_local", "legacy", "local_files_only", "max_length", "model_input_names",
    "name_or_path", "pad_to_multiple_of", "pad_token_type_id", "padding", "padding_side", "processor_class",
    "special_tokens_map_file", "stride", "tokenizer_file", "truncation", "truncation_side", "truncation_strategy",
    "use_fast",
})  # fmt: skip
"""Settings of calls that are never made that way, and names of files, which are found by their usual names."""
FIXED = {
    "add_prefix_space": (False, None),
    "do_lower_case": (True, None),
    "errors": ("replace", None),
    "split_special_tokens": (False, None),
    "sep_token": (None,),
    "cls_token": (None,),
    "mask_token": (None,),
    "auto_map": (None,),
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast", None),
}
"""Settings that would change how texts are read, with what they may be."""
SHAPE = {
    "normalizer": ["NFC", "Replace", "Lowercase"],
    "pre_tokenizer": ["Split", "ByteLevel"],
    "decoder": ["ByteLevel"],
}
"""What a CLIP tokenizer's ``tokenizer.json`` is made of."""


class Pieces(NamedTuple):
    """What a tokenizer reads texts with.

    Attributes:
        ids: token -> its number.
        merges: pairs of tokens that become one, in their order.
        added: tokens beyond them, as ``tokenizer.json`` lists them.
    """

    ids: dict[str, int]
    merges: list[tuple[str, str]]
    added: list[Any]


def read_tokenizer(files: ModelFiles, part: str, rows: int, positions: int) -> CLIPTokenizer:
    """Read the tokenizer in one folder of a model.

    Args:
        files: the model's.
        part: "tokenizer" or "tokenizer_2".
        rows: of its text encoder's token embedding.
        positions: that the text encoder reads.

    Raises:
        ConductorError: a file is missing or damaged, or it is not the tokenizer of that text encoder; one sentence.
    """
    where = str(files.root / part)
    config, pieces = _config(files, part), _pieces(files, part)
    length = config.get("model_max_length", NO_LIMIT)
    if length not in (positions, NO_LIMIT):
        raise ConductorError(
            f"'{where}': 'model_max_length' is {length!r:.40}, but its text encoder reads {positions} tokens; expected "
            f"{positions}"
        )
    added = _added_tokens(files, part, config, pieces)
    by_text = {str(token): token for token in added.values()}
    special = {name: by_text.get(str(config[name]), config[name]) for name in SPECIAL if config.get(name) is not None}
    _check(pieces, added, special, where, rows)
    try:
        made = CLIPTokenizer(
            vocab=pieces.ids, merges=pieces.merges, added_tokens_decoder=added, model_max_length=positions, **special
        )
        numbers = {text: made.convert_tokens_to_ids(text) for text in by_text}
    except Exception as error:  # tokenizers raises bare ones
        raise _foreign(where, first_line(error)) from error
    if wrong := [str(token) for index, token in added.items() if numbers[str(token)] != index]:
        raise _foreign(where, f"the token '{wrong[0]:.40}' has two numbers")
    return made


def _config(files: ModelFiles, part: str) -> dict[str, Any]:
    """Return a tokenizer's settings, and those of ``special_tokens_map.json`` where transformers takes them."""
    name = f"{part}/tokenizer_config.json"
    source = str(files.root / name)
    config = files.json(name, MAX_BYTES) if files.find(name) is not None else {}
    for key, value in config.items():
        if key in FIXED and value not in FIXED[key]:
            raise ConductorError(f"'{source}': '{key}' is {value!r:.40}; expected {FIXED[key][0]!r}, as CLIP has it")
        if key not in FIXED and key not in IGNORED and key not in OBEYED:
            raise ConductorError(
                f"'{source}': '{key:.60}' is not known here and might change how texts are read; expected a CLIP "
                "tokenizer's settings"
            )
    specials = f"{part}/special_tokens_map.json"
    if "added_tokens_decoder" not in config and files.find(specials) is not None:
        config |= {
            key: value if isinstance(value, str) else _token(value, str(files.root / specials), special=True)
            for key, value in files.json(specials).items()
            if key in SPECIAL
        }
    for key in SPECIAL:
        if isinstance(value := config.get(key), Mapping):
            config[key] = _token(value, source)
        elif not isinstance(value, str | AddedToken | None) or not str(value):
            raise ConductorError(f"'{source}': '{key}' is {value!r:.40}; expected a token")
    return config


def _token(value: Any, source: str, **flags: bool) -> AddedToken:
    """Return a token that is written with flags."""
    if isinstance(value, Mapping) and isinstance(text := value.get("content"), str) and text:
        given = {key: flag for key, flag in value.items() if key in FLAGS and isinstance(flag, bool)}
        if value.keys() - given.keys() <= {"content", "id", "__type"}:
            return AddedToken(text, **{**given, **flags})
    raise ConductorError(f"'{source}' has {value!r:.60} where a token was expected; get the model again")


def _pieces(files: ModelFiles, part: str) -> Pieces:
    """Return what ``tokenizer.json`` or ``vocab.json`` and ``merges.txt`` say; where there are all, the same."""
    parts = [f"{part}/vocab.json", f"{part}/merges.txt"]
    if files.find(f"{part}/tokenizer.json") is None:
        return _of_parts(files, *parts)
    whole = _of_whole(files, f"{part}/tokenizer.json")
    if all(files.find(name) is not None for name in parts) and _of_parts(files, *parts)[:2] != whole[:2]:
        raise _foreign(str(files.root / part), "its tokenizer.json and vocab.json differ, so one of them is another's")
    return whole


def _of_parts(files: ModelFiles, vocab: str, merges: str) -> Pieces:
    lines = [line.rstrip("\r") for line in files.read(merges, MAX_BYTES).split("\n")]
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    return _checked(files.json(vocab, MAX_BYTES), pairs, [], str(files.root / vocab))


def _of_whole(files: ModelFiles, name: str) -> Pieces:
    source, data = str(files.root / name), files.json(name, MAX_BYTES)
    model = data.get("model")
    if not isinstance(model, Mapping) or model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != "</w>":
        raise _foreign(source, "its model is another")
    for step, expected in SHAPE.items():
        found = data.get(step)
        inner = found.get(f"{step}s".replace("_", ""), [found]) if isinstance(found, Mapping) else None
        if not isinstance(inner, list) or [one.get("type") for one in inner if isinstance(one, Mapping)] != expected:
            raise _foreign(source, f"its {step} is another")
    merges = model.get("merges")
    pairs = (
        [pair.split(" ") if isinstance(pair, str) else pair for pair in merges] if isinstance(merges, list) else None
    )
    return _checked(model.get("vocab"), pairs, data.get("added_tokens"), source)


def _checked(ids: Any, pairs: Any, added: Any, source: str) -> Pieces:
    """Return the pieces if each is of the kind that it should be."""
    if not isinstance(ids, dict) or not all(type(index) is int and index >= 0 for index in ids.values()):
        raise _foreign(source, "its vocabulary is no table of numbers")
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(half, str) for half in pair) for pair in pairs
    ):
        raise _foreign(source, "its merges are no pairs")
    if added is not None and not isinstance(added, list):
        raise _foreign(source, "its added tokens are no list")
    return Pieces(ids, [(first, second) for first, second in pairs], added or [])


def _added_tokens(files: ModelFiles, part: str, config: Mapping[str, Any], pieces: Pieces) -> dict[int, AddedToken]:
    """Return number -> token of those that are not read piece by piece, from where transformers takes them."""
    source, listed = str(files.root / part), config.get("added_tokens_decoder")
    if listed is not None:
        if not isinstance(listed, Mapping) or not all(key.isascii() and key.isdigit() for key in listed):
            raise _foreign(source, "its 'added_tokens_decoder' is no table of numbers")
        return {int(key): _token(value, source) for key, value in listed.items()}
    tokens: dict[int, AddedToken] = {}
    if files.find(f"{part}/added_tokens.json") is not None:
        special = {str(config[name]) for name in SPECIAL if config.get(name) is not None}
        for text, index in files.json(f"{part}/added_tokens.json").items():
            if type(index) is not int or not text:
                raise _foreign(source, "its added_tokens.json is no table of numbers")
            tokens[index] = AddedToken(text, normalized=text not in special, special=text in special)
    for value in pieces.added:
        if not isinstance(value, Mapping) or type(value.get("id")) is not int:
            raise _foreign(source, "its added tokens have no numbers")
        tokens[value["id"]] = _token(value, source)
    return tokens


def _check(pieces: Pieces, added: Mapping[int, AddedToken], special: Mapping[str, Any], where: str, rows: int) -> None:
    """Raise ConductorError unless every token has its own row of the embedding, and every row a token."""
    numbers = {**pieces.ids, **{str(token): index for index, token in added.items()}}
    if sorted(numbers.values()) != list(range(rows)):
        raise _foreign(
            where,
            f"it has {len(numbers):,} tokens, numbered up to {max(numbers.values(), default=0):,}, where its text "
            f"encoder has {rows:,} rows",
        )
    for name in SPECIAL:
        if (text := str(special.get(name, DEFAULTS[name]))) not in numbers:
            raise _foreign(where, f"its {name} '{text:.40}' is not in its vocabulary")
    made = {first + second for first, second in pieces.merges}
    whole = {str(token) for token in (*added.values(), *special.values(), *DEFAULTS.values())}
    for first, second in pieces.merges:
        if first not in pieces.ids or second not in pieces.ids or first + second not in pieces.ids:
            raise _foreign(where, f"it merges '{first:.20}' and '{second:.20}', which are not in its vocabulary")
    lost = [
        text for text in pieces.ids if len(text.removesuffix("</w>")) > 1 and text not in made and text not in whole
    ]
    if lost:
        raise _foreign(where, f"its merges never make the token '{lost[0]:.40}'")


def _foreign(where: str, reason: str) -> ConductorError:
    """Return the sentence about a tokenizer that is damaged, or not its text encoder's."""
    return ConductorError(f"'{where}' is not the CLIP tokenizer of this model ({reason}); get the model again, whole")
