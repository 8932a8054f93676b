"""Recipes whose concepts are folders, several files, or a hub's; what they were made from is recorded and verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from concept_conductor import Concept
from concept_conductor.concepts import sources
from concept_conductor.io.images import read_recipe


@pytest.fixture
def asked(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub that has the cat as ``user/cat``; what was asked of it."""
    calls: list[dict[str, Any]] = []

    def snapshot(repository: str, **others: Any) -> str:
        calls.append({"repository": repository, **others})
        return str(recipe.parent / "cat")

    monkeypatch.setattr(sources, "snapshot_download", snapshot)
    return calls


@pytest.fixture(params=["cat", "[cat/cat.safetensors, words.safetensors]", "user/cat"])
def source(request: pytest.FixtureRequest, recipe: Path, asked: list[dict[str, Any]]) -> str:
    """The recipe's cat as a folder, as two files, or on the hub."""
    cat = Concept.load(recipe.parent / "siberian_cat.pth")
    words = () if request.param != "cat" and request.param != "user/cat" else cat.tokens
    Concept("cat", words or ({},), cat.text_encoders, cat.unet).save(recipe.parent / "cat" / "cat.safetensors")
    Concept("words", cat.tokens, ({},), {}).save(recipe.parent / "words.safetensors")
    recipe.write_text(recipe.read_text().replace("file: siberian_cat.pth", f"file: {request.param}\n    revision: v2"))
    return str(request.param)


def test_they_are_recorded_and_verified(
    conductor: Any, recipe: Path, source: str, quick: Any, asked: list[dict[str, Any]]
) -> None:
    made = conductor("generate", recipe, "--seeds", "7", "--out", "made")
    assert made.status == 0, made.err
    cat = quick.calls[0]["concepts"][1].concept
    assert cat.placeholders == ("<siberian_cat_1>", "<siberian_cat_2>") and len(cat.unet) == 128
    files = json.loads(read_recipe("made/seed-0007.png"))["files"]
    assert set(files) >= {name.strip() for name in source.strip("[]").split(",")}

    assert conductor("replay", "made/seed-0007.png", "--out", "again").status == 0
    if source == "user/cat":
        assert [call["revision"] for call in asked] == ["v2", "v2"]
        assert [call["local_files_only"] for call in asked] == [False, True]  # a stranger's PNG downloads nothing

    Concept("cat", cat.tokens, cat.text_encoders, dict(list(cat.unet.items())[:9])).save(
        recipe.parent / "cat" / "cat.safetensors"
    )
    changed = conductor("replay", "made/seed-0007.png", "--out", "third")
    assert changed.status == 1 and "its contents changed" in changed.err
    assert not Path("third").exists()
