"""What of PEFT's settings decides how strong an adapter is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from concept_conductor.errors import ConceptFileError

FILE = "adapter_config.json"
MAX_BYTES = 1 << 20
#: Names of layers, or their ends; PEFT would take any regular expression, which a stranger's file may not give us.
PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+")


class AdapterConfig(BaseModel):
    """LoRA settings of one adapter.

    Attributes:
        lora_alpha: the scale is ``lora_alpha / rank``; None where the settings do not say, which means a scale of 1.
        alpha_pattern: layer name, or its end -> alpha of its own.
        use_rslora: the scale is ``lora_alpha / sqrt(rank)``.
        use_dora, peft_type: must be False and ``LORA``.
    """

    model_config = ConfigDict(frozen=True)

    peft_type: str = "LORA"
    lora_alpha: float | None = Field(default=None, allow_inf_nan=False)
    alpha_pattern: dict[str, float] = {}
    use_rslora: bool = False
    use_dora: bool = False

    @classmethod
    def read(cls, path: Path) -> AdapterConfig:
        """The settings in a file.

        Raises:
            ConceptFileError: missing, damaged, or not those of a plain LoRA.
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
        return cls.parsed(path, entries)

    @classmethod
    def parsed(cls, path: Path, entries: Mapping[str, Any]) -> AdapterConfig:
        """The settings among ``entries``; others do not change what the weights mean."""
        try:
            config = cls.model_validate({key: value for key, value in entries.items() if value is not None})
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"]))
            raise ConceptFileError(f"{path} has a wrong value for the adapter's setting '{field}'") from error
        kind = "DoRA" if config.use_dora else config.peft_type
        if kind != "LORA":
            raise ConceptFileError(
                f"{path} is an adapter of the kind '{kind}', which is not plain low rank; only LoRA is"
            )
        for pattern in config.alpha_pattern:
            if not PATTERN.fullmatch(pattern):
                raise ConceptFileError(
                    f"{path} names layers by the expression '{pattern[:40]}'; only names can be read"
                )
        return config

    def scale(self, layer: str, rank: int) -> float:
        """What the update of ``layer`` is multiplied by; patterns match as in PEFT's ``get_pattern_key``."""
        alpha = next(
            (value for key, value in self.alpha_pattern.items() if re.match(rf"(.*\.)?({key})$", layer)),
            self.lora_alpha,
        )
        if alpha is None:
            return 1.0
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)
