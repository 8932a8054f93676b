"""Files of model folders: ordinary, inside the folder, and strict JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from concept_conductor.backbones.model_files import MAX_CONFIG_BYTES, ModelFiles, parse_json
from concept_conductor.errors import ConductorError


def test_plain_values_are_read(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_bytes(b'\xef\xbb\xbf{"a": [1, 2.5, null], "\xc3\xa9": "\\ud83d\\ude00"}')
    files = ModelFiles(tmp_path)
    assert files.json("unet/config.json") == {"a": [1, 2.5, None], "é": "😀"}
    assert files.find("vae/config.json") is None and files.names("unet") == ["config.json"] and files.names("x") == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is no valid JSON"),
        ("[1]", "holds no JSON object"),
        ('{"a": 1, "a": 2}', "'a' stands there twice"),
        ('{"b": {"a": 1, "c": 2, "a": 1}}', "'a' stands there twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "a number is too large"),
        ('{"a": ' + "9" * 5000 + "}", "a number has 5000 digits"),
        ('{"a": "\\ud800"}', "half a character"),
        ('{"\\udfff": 1}', "half a character"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_strict_json(text: str, sentence: str) -> None:
    with pytest.raises(ConductorError, match=sentence) as caught:
        parse_json(text, "unet/config.json")
    assert "'unet/config.json'" in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff\xfe{}", r"config.json' is not UTF-8 text \(byte 0\)"),
        (b" " * (MAX_CONFIG_BYTES + 1), "expected at most 1,048,576 bytes"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConductorError, match=sentence):
        ModelFiles(tmp_path).json("config.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConductorError, match=r"lacks unet/config\.json; get it again, whole"):
        ModelFiles(tmp_path).json("unet/config.json")


@pytest.mark.parametrize("kind", ["fifo", "folder", "zero", "outside", "outside folder", "dangling"])
def test_only_ordinary_files_inside_the_folder(tmp_path: Path, kind: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.json").write_text("{}")
    root = tmp_path / "model"
    part = root / "unet"
    part.mkdir(parents=True)
    file = part / "config.json"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "outside folder":
        part.rmdir()
        part.symlink_to(elsewhere)
    else:
        file.symlink_to({"zero": Path("/dev/zero"), "outside": elsewhere / "config.json", "dangling": part / "x"}[kind])
    with pytest.raises(ConductorError, match="is no ordinary file|leads out of the model's folder"):
        ModelFiles(root).json("unet/config.json")


def test_links_inside_the_folder_and_to_the_hubs_blobs_are_followed(tmp_path: Path) -> None:
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    (snapshot / "unet").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "abc").write_text(json.dumps({"a": 1}))
    (snapshot / "unet" / "config.json").symlink_to(Path("../../../blobs/abc"))
    (snapshot / "again.json").symlink_to(Path("unet/config.json"))
    (tmp_path / "link").symlink_to(snapshot)
    for root in (snapshot, tmp_path / "link"):
        assert ModelFiles(root).json("unet/config.json") == ModelFiles(root).json("again.json") == {"a": 1}
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (blobs / "evil").symlink_to(secret)
    (snapshot / "evil.json").symlink_to(Path("../../blobs/evil"))
    with pytest.raises(ConductorError, match="leads out of"):
        ModelFiles(snapshot).json("evil.json")


def test_blobs_that_are_a_link_are_nobodys(tmp_path: Path) -> None:
    """A folder called like the hub's cache cannot open a way to everywhere."""
    (tmp_path / "snapshots" / "0").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("{}")
    (tmp_path / "blobs").symlink_to(tmp_path / "other")
    (tmp_path / "snapshots" / "0" / "config.json").symlink_to(tmp_path / "blobs" / "x")
    with pytest.raises(ConductorError, match="leads out of"):
        ModelFiles(tmp_path / "snapshots" / "0").json("config.json")
