"""A benchmark on the tiny model: two combinations, two prompts, two seeds, two steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import TINY

BENCHMARK = """\
name: tiny
version: 1
model: MODEL
methods: [full, no-alignment]
settings: {steps: 2, width: 64, height: 64, inversion: {steps: 2, cache: inversions}}
concepts:
  chow:
    file: chow_dog.pth
    class_words: dog
    references: [ref.png]
  siberian:
    file: siberian_cat.pth
    class_words: cat
    references: [ref.png]
combinations:
  - [chow, siberian]
  - concepts: [siberian, chow]
prompts:
  - {name: beach, text: "A {1} and a {2} on the beach."}
  - {name: snow, text: "A {1} and a {2} in the snow."}
layout:
  image: ref.png
  prompt: "{text}"
  masks: [mask1.png, mask2.png]
seeds: 0-1
subsets:
  one: {combinations: 1, prompts: 1, seeds: 3, methods: [full], settings: {steps: 1}}
"""


@pytest.fixture
def benchmark_file(tmp_path: Path) -> Path:
    """The file with what it names around it."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name in ("chow_dog.pth", "siberian_cat.pth", "ref.png", "mask1.png", "mask2.png"):
        shutil.copy(TINY / name, folder)
    path = folder / "tiny.yaml"
    path.write_text(BENCHMARK.replace("MODEL", str(TINY)))
    return path
