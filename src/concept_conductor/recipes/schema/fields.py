"""What a recipe's fields hold: names, texts, numbers, seeds."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

MAX_SEEDS = 10_000
MOST_SEED = 2**63

LONGEST_NAME = 255
"""Bytes that a file system has for the name of a file or folder."""


def check_name(path: str) -> str:
    """Return a path that a file system can hold.

    Raises:
        ValueError: a name in it is too long.
    """
    longest = max((len(part.encode()) for part in re.split(r"[/\\]", path)), default=0)
    if longest > LONGEST_NAME:
        raise ValueError(
            f"expected names of at most {LONGEST_NAME} bytes, which is what file systems hold, but one has {longest:,}"
        )
    return path


Name = Annotated[str, Field(min_length=1, max_length=4000, pattern=r"^[^\x00]+$"), AfterValidator(check_name)]
"""A path as a recipe writes it."""
Text = Annotated[str, Field(strict=True, max_length=20_000)]
Count = Annotated[int, Field(strict=True, ge=1)]
Side = Annotated[int, Field(strict=True, ge=8, le=8192)]
Real = Annotated[float, Field(strict=True)]
Guidance = Annotated[Real, Field(ge=1, le=1000)]
"""Classifier-free guidance; 1 switches it off."""
Seed = Annotated[int, Field(strict=True, ge=0, lt=MOST_SEED)]


def parse_seeds(value: Any) -> Any:
    """Return seeds as people write them, ``3``, ``[0, 5]`` or ``"0-7, 12"``, as a list.

    Raises:
        ValueError: the text names no seeds, or too many.
    """
    if isinstance(value, int):
        return [value]
    if not isinstance(value, str):
        return value
    seeds: list[int] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*(\d{1,19})\s*(?:-\s*(\d{1,19}))?\s*", part)
        if match is None:
            raise ValueError(f"expected seeds like 3, 0-7 or 0,3,5, but it is '{value}'")
        first, last = int(match[1]), int(match[2] or match[1])
        if last >= MOST_SEED:
            raise ValueError(f"expected seeds below 2**63, but '{part.strip()}' is not")
        if last < first or last - first >= MAX_SEEDS:
            raise ValueError(f"expected 1 to {MAX_SEEDS:,} seeds from low to high, but '{part.strip()}' is not")
        seeds.extend(range(first, last + 1))
        if len(seeds) > MAX_SEEDS:
            raise ValueError(f"expected at most {MAX_SEEDS:,} seeds, but these are more")
    return list(dict.fromkeys(seeds))


Seeds = Annotated[
    tuple[Seed, ...],
    BeforeValidator(parse_seeds),
    Field(min_length=1, max_length=MAX_SEEDS),
    AfterValidator(lambda seeds: tuple(dict.fromkeys(seeds))),
]
"""Each once, in the order given."""


def listed(value: Any) -> Any:
    """Take one word for a list of one."""
    return [value] if isinstance(value, str) else value


def switched(value: Any) -> Any:
    """Take ``off`` or false for None, ``on`` or true for a section in which nothing is set."""
    word = value.lower() if isinstance(value, str) else ""
    if value is False or word in ("off", "no", "false"):
        return None
    return {} if value is True or word in ("on", "yes", "true") else value


def device_name(value: str) -> str:
    """Return a device as torch and recipes name it.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError(f"expected auto, cpu, mps, cuda or cuda:1, but it is '{value}'")
    return value
