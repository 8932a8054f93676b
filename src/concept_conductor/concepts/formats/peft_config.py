"""What of PEFT's settings decides how strong an adapter is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from concept_conductor.errors import ConceptFileError

FILE = "adapter_config.json"
MAX_BYTES = 1 << 20
LORA, LYCORIS = "LORA", ("LOHA", "LOKR")
#: Names of layers, or their ends; PEFT would take any regular expression, which a stranger's file may not give us.
PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")


class AdapterConfig(BaseModel):
    """Settings of one adapter: LoRA's, or of PEFT's LoHa or LoKr.

    Attributes:
        peft_type: the kind.
        lora_alpha: LoRA's scale is ``lora_alpha / rank``; None where the settings do not say, which means a scale of 1.
        alpha: the same of the other kinds.
        r: the rank, which a LoKr of whole factors does not show.
        alpha_pattern, rank_pattern: layer name, or its end -> alpha or rank of its own.
        use_rslora: the scale is ``lora_alpha / sqrt(rank)``.
        use_dora: must be False.
    """

    model_config = ConfigDict(frozen=True)

    peft_type: str = "LORA"
    lora_alpha: float | None = Field(default=None, allow_inf_nan=False)
    alpha: float | None = Field(default=None, allow_inf_nan=False)
    r: int = Field(default=1, ge=1)
    alpha_pattern: dict[str, float] = {}
    rank_pattern: dict[str, int] = {}
    use_rslora: bool = False
    use_dora: bool = False

    @classmethod
    def read(cls, path: Path) -> AdapterConfig:
        """The settings in a file.

        Raises:
            ConceptFileError: missing, damaged, or not those of a LoRA, LoHa or LoKr.
        """
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ConceptFileError(f"{path} has more than {MAX_BYTES} bytes, which no settings have")
            entries = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConceptFileError(f"{path} is missing: it says how strong the adapter beside it is") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ConceptFileError(f"{path} cannot be read as JSON; get it again") from error
        if not isinstance(entries, dict):
            raise ConceptFileError(f"{path} is no table of settings")
        return cls.parsed(path, entries, (LORA, *LYCORIS))

    @classmethod
    def parsed(cls, path: Path, entries: Mapping[str, Any], kinds: Sequence[str] = (LORA,)) -> AdapterConfig:
        """The settings among ``entries``; others do not change what the weights mean."""
        try:
            config = cls.model_validate({key: value for key, value in entries.items() if value is not None})
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"]))
            raise ConceptFileError(f"{path} has a wrong value for the adapter's setting '{field}'") from error
        kind = "DoRA" if config.use_dora else config.peft_type
        if kind not in kinds:
            raise ConceptFileError(
                f"{path} is an adapter of the kind '{kind}', which is not plain low rank; only {', '.join(kinds)} can "
                "be read"
            )
        for pattern in (*config.alpha_pattern, *(config.rank_pattern if kind in LYCORIS else ())):
            if not PATTERN.fullmatch(pattern):
                raise ConceptFileError(
                    f"{path} names layers by the expression '{pattern[:40]}'; only names can be read"
                )
        return config

    def scale(self, layer: str, rank: int | None) -> float:
        """What the update of ``layer`` is multiplied by; a ``rank`` of None is the settings' own."""
        alpha = _matching(self.alpha_pattern, layer, self.lora_alpha if self.peft_type == LORA else self.alpha)
        if alpha is None:
            return 1.0
        rank = rank or int(_matching(self.rank_pattern, layer, self.r) or 1)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _matching(pattern: Mapping[str, float], layer: str, usual: float | None) -> float | None:
    """The pattern's value for a layer; patterns match as in PEFT's ``get_pattern_key``."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", layer)), usual)
