"""Benchmarks that come with the package: two on the embedded model, and the paper's protocol to fill in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.benchmark import Benchmark
from concept_conductor.io.documents import Document, read_yaml

PAPER = Path(__file__).parent / "paper.yaml"
BACKDROPS = ("beach", "snow", "grass", "night", "desert")
"""Of the sticker world, one for each prompt."""
TRIPLES = (
    ("dog-noto", "cat-noto", "dog-emojione"),
    ("robot-noto", "mug-noto", "robot-emojione"),
    ("cat-emojione", "backpack-noto", "cat-noto"),
    ("mug-emojione", "dog-noto", "mug-noto"),
)
CPU = {"prompts": 2, "seeds": "0-1"}
CI = {"combinations": 1, "prompts": 1, "seeds": 0, "settings": {"steps": 5, "inversion": {"steps": 25}}}


def _look_alikes() -> dict[str, Any]:
    from concept_conductor.mini.arrangements import PAIRS

    return _mini("mini-look-alikes", PAIRS, "a {1} and a {2}")


def _three() -> dict[str, Any]:
    return _mini("mini-three-concepts", TRIPLES, "a {1}, a {2} and a {3}")


MINI = {"mini-look-alikes": _look_alikes, "mini-three-concepts": _three}
SHIPPED = (*MINI, "paper")


def _mini(name: str, combinations: Sequence[Sequence[str]], objects: str) -> dict[str, Any]:
    """Return the fields of a benchmark on the embedded model, with the settings its report is made with."""
    from concept_conductor.mini.arrangements import STEPS, WEIGHT, design_of
    from concept_conductor.mini.world import BACKDROPS as PAINTED

    concepts = dict.fromkeys(concept for combination in combinations for concept in combination)
    return {
        "name": name,
        "version": 2,
        "model": "mini",
        "settings": {"steps": STEPS, "inversion": {"steps": 250}},
        "concepts": {
            concept: {
                "file": f"mini/{concept}",
                "class_words": concept.split("-")[0],
                "weight": WEIGHT,
                "design": design_of(concept),
            }
            for concept in concepts
        },
        "combinations": [list(combination) for combination in combinations],
        "prompts": [
            {
                "name": place,
                "text": f"{objects} {PAINTED[place].phrase}",
                "drawn": {"backdrop": place, "seed": number},
            }
            for number, place in enumerate(BACKDROPS)
        ],
        "seeds": "0-7",
        "subsets": {"cpu": dict(CPU), "ci": dict(CI)},
    }


def text_of(name: str) -> str:
    """Return a shipped benchmark as YAML, to start one's own from."""
    if name == "paper":
        return PAPER.read_text(encoding="utf-8")
    return yaml.safe_dump(MINI[name](), sort_keys=False, default_flow_style=None, width=120)


def open_benchmark(name: str) -> Benchmark:
    """Open a shipped benchmark by its name, or one's own by its path.

    Raises:
        ConductorError: there is neither, or it does not fit.
    """
    if name in SHIPPED and not os.path.isfile(name):
        return Benchmark.from_document(_document(name), Path())
    if not os.path.isfile(name):
        raise ConductorError(
            f"there is no benchmark '{name}'; expected a YAML file or one of those shipped: {', '.join(SHIPPED)}"
        )
    return Benchmark.load(name)


def _document(name: str) -> Document:
    return read_yaml(text_of(name), name)
