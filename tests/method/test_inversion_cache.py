"""The inversion cache: hits, keys, damage, and entries that came from elsewhere."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from concept_conductor.io.files import content_hash
from concept_conductor.method.inversion_cache import EntryForm, InversionCache

FORM = EntryForm(steps=3, aligned=(0, 1), latents=(1, 4, 8, 8), channels=6, dtype=torch.float32)
PIXELS = torch.zeros(1, 3, 64, 64)


def written(folder: Path) -> InversionCache:
    generator = torch.Generator().manual_seed(0)
    cache = InversionCache.open(folder, ("model", "prompt"), PIXELS, FORM)
    latents = {index: torch.randn(1, 4, 8, 8, generator=generator) for index in range(3)}
    cache.write(latents, {index: torch.randn(16, 6, generator=generator) for index in range(2)})
    return cache


def read(cache: InversionCache) -> tuple[dict[int, Tensor], dict[int, Tensor]] | None:
    return cache.read(torch.device("cpu"), torch.float32)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read(written(tmp_path))
    assert found is not None
    latents, keys = found
    assert sorted(latents) == [0, 1, 2] and sorted(keys) == [0, 1]
    assert latents[2].shape == (1, 4, 8, 8) and keys[1].shape == (16, 6)
    assert read(InversionCache.open(tmp_path, ("model", "another"), PIXELS, FORM)) is None
    assert read(InversionCache.open(tmp_path, ("model", "prompt"), PIXELS + 1, FORM)) is None


def without(name: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_(name: str, tensor: Tensor) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {**tensors, name: tensor}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: {}, "it lacks 'keys.0'"),
        (without("latents.1"), "it lacks 'latents.1'"),
        (with_("latents.3", torch.zeros(1, 4, 8, 8)), "it has a tensor 'latents.3'"),
        (with_("x", torch.zeros(1)), "it has a tensor 'x'"),
        (with_("latents.0", torch.zeros(1, 4, 8, 9)), r"'latents.0' has the shape \(1, 4, 8, 9\), not \(1, 4, 8, 8\)"),
        (with_("keys.0", torch.zeros(16, 7)), r"'keys.0' has the shape \(16, 7\), not \(16, 6\)"),
        (with_("keys.1", torch.zeros(64, 6)), r"'keys.1' has the shape \(64, 6\), not \(16, 6\)"),
        (with_("keys.0", torch.zeros(())), r"has the shape"),
        (with_("latents.0", torch.zeros(1, 4, 8, 8, dtype=torch.int32)), "'latents.0' holds torch.int32"),
        (with_("keys.1", torch.full((16, 6), float("nan"))), "'keys.1' holds infinite numbers"),
        (
            lambda tensors: {name: t[:15] if name[0] == "k" else t for name, t in tensors.items()},
            "a layer of 15 tokens",
        ),
    ],
)
def test_a_right_hash_makes_no_wrong_content_right(
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache = written(tmp_path)
    tensors = {name: tensor.contiguous() for name, tensor in change(load_file(cache.file)).items()}
    claim = sha256(f"{cache.file.stem} {content_hash(tensors)}".encode()).hexdigest()
    save_file(tensors, cache.file, metadata={"sha256": claim})
    with caplog.at_level(logging.WARNING):
        assert read(cache) is None
    assert "is damaged" in caplog.text and "computed anew" in caplog.text
    assert re.search(said, caplog.text)


def test_an_entry_of_another_inversion_is_none_of_this(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = written(tmp_path)
    other = InversionCache.open(tmp_path, ("model", "another"), PIXELS, FORM)
    cache.file.rename(other.file)
    assert read(other) is None
    assert "is not what its hash says" in caplog.text


def test_the_hash_of_the_content_alone_is_no_proof(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = written(tmp_path)
    tensors = {name: tensor + 1 for name, tensor in load_file(cache.file).items()}
    save_file(tensors, cache.file, metadata={"sha256": content_hash(tensors)})
    assert read(cache) is None
    assert "is not what its hash says" in caplog.text


def test_half_precision_is_the_models_own(tmp_path: Path) -> None:
    form = replace(FORM, dtype=torch.float16)
    cache = InversionCache.open(tmp_path, ("model",), PIXELS, form)
    half = {index: torch.ones(1, 4, 8, 8, dtype=torch.float16) for index in range(3)}
    cache.write(half, {index: torch.ones(16, 6, dtype=torch.float16) for index in range(2)})
    assert cache.read(torch.device("cpu"), torch.float16) is not None
    assert read(replace(cache, form=FORM)) is None
