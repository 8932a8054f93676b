"""What of PEFT's settings decides how strong an adapter is, and on which layers."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from concept_conductor.concepts.formats.peft_settings import harm
from concept_conductor.concepts.formats.weight_file import parsed_json
from concept_conductor.concepts.layer_names import TEXT_WRAPPERS, WRAPPERS
from concept_conductor.errors import ConceptFileError, ConductorError
from concept_conductor.io.ordinary import read_bounded

FILE = "adapter_config.json"
MAX_BYTES = 1 << 20
LORA, LYCORIS = "LORA", ("LOHA", "LOKR")
#: Names of layers, or their ends; PEFT would take any regular expression, which a stranger's file may not give us.
PATTERN = re.compile(r"\^?(?:[A-Za-z0-9_.]|\\\.)+\$?")

Alpha = Annotated[float, Field(allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1, le=10**9)]  # a LoKr's is often absurdly large, which leaves its factors whole
Value = TypeVar("Value")


class AdapterConfig(BaseModel):
    """Settings of one adapter, LoRA's or those of PEFT's LoHa or LoKr, with PEFT's defaults.

    Attributes:
        peft_type: the kind.
        lora_alpha: LoRA's scale is ``lora_alpha / rank``.
        alpha: the same of the other kinds.
        r: the rank, which a LoKr of whole factors does not show.
        alpha_pattern, rank_pattern: layer name, or its end -> alpha or rank of its own.
        use_rslora: the scale is ``lora_alpha / sqrt(rank)``.
        target_modules, exclude_modules: layers, or the ends of their names, that the adapter changes, or does not; or
            an expression, which is not looked at.
        layers_to_transform: numbers of the blocks that it changes; None for all.
        layers_pattern: what stands before such a number.
    """

    model_config = ConfigDict(frozen=True)

    peft_type: str = LORA
    lora_alpha: Alpha = 8
    alpha: Alpha = 8
    r: Rank = 8
    alpha_pattern: dict[str, Alpha] = {}
    rank_pattern: dict[str, Rank] = {}
    use_rslora: StrictBool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    @classmethod
    def read(cls, path: Path) -> AdapterConfig:
        """Return the settings in a file.

        Raises:
            ConceptFileError: missing, damaged, not those of a LoRA, LoHa or LoKr, or with one that changes more than
                low-rank weights show.
        """
        if not os.path.lexists(path):
            raise ConceptFileError(f"{path} is missing: it says how strong the adapter beside it is")
        try:
            text = read_bounded(path, MAX_BYTES).decode("utf-8")
        except (ConductorError, UnicodeDecodeError) as error:
            raise ConceptFileError(f"{path} cannot be read as an adapter's settings: {error}") from error
        entries = parsed_json(path, FILE, text)
        if not isinstance(entries, dict):
            raise ConceptFileError(f"{path} is no table of settings")
        return cls.parsed(path, entries, (LORA, *LYCORIS))

    @classmethod
    def parsed(cls, path: Path, entries: Mapping[str, Any], kinds: Sequence[str] = (LORA,)) -> AdapterConfig:
        """Return the settings among ``entries``; see :meth:`read`.

        Args:
            path: of the file, for messages.
            entries: field -> value.
            kinds: of adapters that the file may hold.
        """
        kind = entries.get("peft_type") or LORA
        if kind not in kinds:
            raise ConceptFileError(
                f"{path} is an adapter of the kind {kind!r:.40}, which is not plain low rank; only {', '.join(kinds)} "
                "can be read"
            )
        for field, value in entries.items():
            if (what := harm(field, value)) is not None:
                raise ConceptFileError(
                    f"{path} has the adapter's setting {field!r:.60} as {value!r:.60}, which {what}; only plain "
                    "low-rank weights can be used"
                )
        try:
            config = cls.model_validate({key: value for key, value in entries.items() if value is not None})
        except ValidationError as error:
            field = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
            raise ConceptFileError(f"{path} has a wrong value for the adapter's setting {field!r:.60}") from error
        for name in (*config.alpha_pattern, *(config.rank_pattern if kind in LYCORIS else ())):
            if not PATTERN.fullmatch(name):
                raise ConceptFileError(f"{path} names layers by the expression {name!r:.60}; only names can be read")
        return config

    def scale(self, layer: str, rank: int | None) -> float:
        """Return what a layer's update is multiplied by.

        Args:
            layer: its name, without what wraps a network.
            rank: of its factors; None for the settings' own.

        Raises:
            ValueError: the settings mean another rank, or leave the layer out; the message goes on after "a layer".
        """
        self._check_chosen(layer)
        own = self._own_ranks.get(layer, self.r)
        if self.peft_type == LORA and rank != own and self._ranks_are_told:
            raise ValueError(f"of rank {rank}, for which its settings say {own}")
        rank = rank or own
        alpha = self._own_alphas.get(layer, self.lora_alpha if self.peft_type == LORA else self.alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def _check_chosen(self, layer: str) -> None:
        """Raise ValueError where PEFT would not put an adapter into the layer."""
        for field, names in self._names.items():
            if names.isdisjoint(_ends(layer)) is (field == "target_modules"):
                raise ValueError(f"that its settings leave out by '{field}'")
        numbers = self.layers_to_transform
        if numbers is not None and numbers != []:
            number = _number(layer, self.layers_pattern)
            if number not in (numbers if isinstance(numbers, list) else [numbers]):
                raise ValueError("that its settings leave out by 'layers_to_transform'")

    # made once: a stranger's file may have many thousands
    @cached_property
    def _names(self) -> dict[str, set[str]]:
        given = {"target_modules": self.target_modules, "exclude_modules": self.exclude_modules}
        return {field: set(map(_plain, names)) for field, names in given.items() if isinstance(names, list)}

    @cached_property
    def _own_alphas(self) -> _Pattern[float]:
        return _Pattern(self.alpha_pattern)

    @cached_property
    def _own_ranks(self) -> _Pattern[int]:
        return _Pattern(self.rank_pattern)

    @cached_property
    def _ranks_are_told(self) -> bool:
        return all(map(PATTERN.fullmatch, self.rank_pattern))


class _Pattern(Generic[Value]):
    """Names of layers, or with no ``^`` before them their ends -> values; the first that fits counts, as in PEFT."""

    def __init__(self, pattern: Mapping[str, Value]) -> None:
        self._values: dict[str, tuple[int, Value]] = {}
        for place, (key, value) in enumerate(pattern.items()):
            whole = "^" if key.startswith("^") else ""
            name = whole + _plain(key.removeprefix("^").removesuffix("$").replace("\\.", "."))
            self._values.setdefault(name, (place, value))

    def get(self, layer: str, usual: Value) -> Value:
        found = [self._values[name] for name in (f"^{layer}", *_ends(layer)) if name in self._values]
        return min(found, key=lambda entry: entry[0])[1] if found else usual


def _plain(name: str) -> str:
    """Return a layer's name without what wraps a network."""
    return TEXT_WRAPPERS.sub("", WRAPPERS.sub("", name))


def _ends(layer: str) -> set[str]:
    """Return a layer's name and all ends of it that begin where a part of it begins."""
    parts = layer.split(".")
    return {".".join(parts[start:]) for start in range(len(parts))}


def _number(layer: str, owners: list[str] | str | None) -> int | None:
    """Return the number of the block that a layer is in: the first after one of ``owners``, or after any two parts."""
    parts = layer.split(".")
    places = [place for place in range(1, len(parts) - 1) if parts[place].isdigit()]
    if not owners:
        return next((int(parts[place]) for place in places if place > 1), None)
    found = {parts[place - 1]: int(parts[place]) for place in reversed(places)}
    return next((found[owner] for owner in ([owners] if isinstance(owners, str) else owners) if owner in found), None)
