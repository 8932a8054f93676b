"""Where concepts come from: files, folders, several at once, and the hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file

from concept_conductor.concepts import sources
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.formats.weight_file import WeightFile
from concept_conductor.concepts.inspection import inspect
from concept_conductor.errors import ConceptFileError, FamilyError
from tests.concepts.conftest import DIM, concept

LAYER = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def lora(path: Path, width: int = DIM, layer: str = LAYER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = {"lora_A": torch.randn(2, width), "lora_B": torch.randn(4, 2)}
    save_file({f"unet.{layer}.{half}.weight": value for half, value in keys.items()}, path)
    return path


def embedding(path: Path, width: int = DIM, positions: int = 2) -> Path:
    path.parent.mkdir(exist_ok=True)
    save_file({"<mug>": torch.randn(positions, width)}, path)
    return path


def test_a_lora_and_its_embedding_are_one_concept(tmp_path: Path) -> None:
    files = (
        lora(tmp_path / "mug" / "pytorch_lora_weights.safetensors"),
        embedding(tmp_path / "mug" / "token.safetensors"),
    )
    for loaded in (Concept.load(*files), Concept.load(tmp_path / "mug"), Concept.load(*files)):
        assert loaded.placeholders == ("<mug>",)
        assert set(loaded.unet) == {LAYER}
    assert Concept.load(*files).name == "mug"
    ours = Concept.load(*files).save(tmp_path / "one.safetensors")
    assert Concept.load(ours).positions == {"<mug>": 2}


def test_the_same_weights_twice_are_read_once(tmp_path: Path) -> None:
    embedding(tmp_path / "learned_embeds.safetensors")
    torch.save({"<mug>": torch.randn(2, DIM)}, tmp_path / "learned_embeds.bin")
    assert sources.find_files(tmp_path) == [tmp_path / "learned_embeds.safetensors"]


def test_contradicting_files_are_refused(tmp_path: Path) -> None:
    first, second = embedding(tmp_path / "a.safetensors"), embedding(tmp_path / "b.safetensors")
    with pytest.raises(ConceptFileError, match="different vectors for the placeholder '<mug>'"):
        Concept.load(first, second)
    assert Concept.load(first, first).placeholders == ("<mug>",)
    with pytest.raises(ConceptFileError, match=f"weights for the U-Net's layer '{LAYER}'"):
        Concept.load(lora(tmp_path / "c.safetensors"), lora(tmp_path / "d.safetensors"))


def test_files_of_two_families_are_refused(tmp_path: Path) -> None:
    """A LoRA for SDXL with an embedding for SD1.5, and one for SD1.5 with an embedding for SD2.1."""
    with pytest.raises(FamilyError, match="'a' mixes families: .*SDXL's but the placeholder <mug>.*SD1.5's"):
        Concept.load(lora(tmp_path / "a.safetensors", 2048), embedding(tmp_path / "b.safetensors", 768))
    with pytest.raises(FamilyError, match="SD2.1"):
        Concept.load(lora(tmp_path / "a.safetensors", 768), embedding(tmp_path / "b.safetensors", 1024))


@pytest.mark.parametrize(
    ("made", "family"),
    [
        (Concept("a", unet={LAYER: LowRank(torch.ones(2, 768), torch.ones(4, 2))}), "sd15"),
        (Concept("a", unet={LAYER: LowRank(torch.ones(2, 1024), torch.ones(4, 2))}), "sd21"),
        (Concept("a", unet={LAYER: LowRank(torch.ones(2, 2048), torch.ones(4, 2))}), "sdxl"),
        (Concept("a", unet={"up_blocks.0.resnets.0.conv1": LowRank(torch.ones(2, 8, 3, 3), torch.ones(4, 2))}), None),
        (Concept("a", ({"<a>": torch.ones(2, 1, 1024)},)), "sd21"),
        (concept(), "sd15"),
        (concept(2), "sdxl"),
    ],
)
def test_families_are_told_by_shapes(tmp_path: Path, made: Concept, family: str | None) -> None:
    assert made.family == family
    again = Concept.load(made.save(tmp_path / "a.safetensors"))
    assert again.family == family
    assert len(again.tokens) == (2 if family == "sdxl" else 1)


def test_folders_that_hold_no_concept(tmp_path: Path) -> None:
    with pytest.raises(ConceptFileError, match="without a concept's weight file"):
        Concept.load(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ConceptFileError, match="whole diffusers model"):
        Concept.load(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("dog.safetensors", "dog"),
        ("dog/pytorch_lora_weights.safetensors", "dog"),
        ("dog/unet/adapter_model.safetensors", "dog"),
        (f"models--user--dog/snapshots/{'a' * 40}/learned_embeds.bin", "dog"),
        ("adapter_model.safetensors", "concept"),
    ],
)
def test_names_come_from_what_people_have_named(path: str, name: str) -> None:
    assert WeightFile(Path(path), "torch", {}).name == name


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """A hub with one repository, ``user/mug``; what was asked of it."""
    asked: list[tuple[Any, ...]] = []
    lora(tmp_path / "mug" / "pytorch_lora_weights.safetensors")

    def download(repository: str, file: str, revision: str | None, local_files_only: bool) -> str:
        asked.append((repository, file, revision))
        return str(tmp_path / "mug" / file)

    def snapshot(repository: str, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((repository, revision))
        assert "adapter_*" in allow_patterns and "unet/adapter_*" in allow_patterns
        return str(tmp_path / "mug")

    monkeypatch.setattr(sources, "hf_hub_download", download)
    monkeypatch.setattr(sources, "snapshot_download", snapshot)
    return asked


def test_the_hub_is_asked_with_the_revision(hub: list[tuple[Any, ...]]) -> None:
    assert set(Concept.load("user/mug", revision="v2").unet) == {LAYER}
    assert set(Concept.load("user/mug/pytorch_lora_weights.safetensors").unet) == {LAYER}
    assert hub == [("user/mug", "v2"), ("user/mug", "pytorch_lora_weights.safetensors", None)]


def test_looking_into_a_repository_asks_the_hub_once(hub: list[tuple[Any, ...]]) -> None:
    report = inspect("user/mug", "v2")
    assert report.problem is None and report.kind == "diffusers LoRA"
    assert hub == [("user/mug", "v2")]


@pytest.mark.parametrize(
    "source", ["concepts/dog.pth", "../user/mug", "./user/mug", "dog.safetensors", "a b/c", "/user/mug"]
)
def test_missing_files_are_not_looked_for_on_the_hub(hub: list[tuple[Any, ...]], source: str) -> None:
    with pytest.raises(ConceptFileError, match="no concept file"):
        Concept.load(source)
    with pytest.raises(ConceptFileError, match="no concept file"):
        Concept.load(Path("user/mug"))
    assert not hub


RESPONSE: Any = SimpleNamespace(status_code=404, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: LocalEntryNotFoundError("long\nstory"), "not reachable, and not in the cache"),
        (lambda: RepositoryNotFoundError("long\nstory", response=RESPONSE), "it answered 404"),
        (lambda: ConnectionError("refused"), "ConnectionError"),
        (lambda: HFValidationError("long\nstory"), "no name of a hub repository"),
    ],
)
@pytest.mark.parametrize("source", ["user/mug", "user/mug/folder/token.pt"])
def test_an_unreachable_hub_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, source: str, error: Callable[[], Exception], words: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error()

    monkeypatch.setattr(sources, "hf_hub_download", fail)
    monkeypatch.setattr(sources, "snapshot_download", fail)
    with pytest.raises(ConceptFileError) as caught:
        Concept.load(source, revision="v2")
    message = str(caught.value)
    assert words in message and f"'{source}' at v2" in message and "\n" not in message
    assert "give its path" in message or "no name" in message


def test_without_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real hub library, told to stay offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for source in ("user/not-in-the-cache", "user/not-in-the-cache/file.safetensors"):
        with pytest.raises(ConceptFileError, match="not in the cache.*give its path"):
            Concept.load(source)


def test_shipped_names_stay_in_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    concept().save(shipped / "dog-noto.safetensors")
    concept().save(tmp_path / "secret.safetensors")
    monkeypatch.setattr("concept_conductor.mini.CONCEPTS_FOLDER", shipped)
    assert Concept.load("mini/dog-noto").name == "toy"
    for bad in ("mini/../secret", "mini/nothing", "mini/", "mini//etc/passwd", "mini/.", "mini/dog-noto/../dog-noto"):
        with pytest.raises(ConceptFileError, match="no shipped concept.*mini/dog-noto"):
            Concept.load(bad)


def test_a_file_on_disk_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    concept().save(tmp_path / "mini" / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    assert Concept.load("mini/mine.safetensors").name == "toy"


def adapter(folder: Path, layer: str = LAYER) -> Path:
    """A PEFT adapter for one network."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"lora_A": torch.randn(2, DIM), "lora_B": torch.randn(4, 2)}
    path = folder / "adapter_model.safetensors"
    save_file({f"base_model.model.{layer}.{half}.weight": value for half, value in keys.items()}, path)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    return path


Q_PROJ = "text_model.encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    "names",
    [
        ("text_encoder", "text_encoder_2"),
        ("text_encoder_one", "text_encoder_two"),
        ("text_encoder_1", "text_encoder_2"),
    ],
)
def test_adapters_for_every_network_are_used(tmp_path: Path, names: tuple[str, str]) -> None:
    adapter(tmp_path / "mug" / "unet")
    for name in names:
        adapter(tmp_path / "mug" / name, Q_PROJ)
    before = sources.sha256_of_source(tmp_path / "mug")
    mug = Concept.load(tmp_path / "mug")
    assert set(mug.unet) == {LAYER} and [len(layers) for layers in mug.text_encoders] == [1, 1]
    (tmp_path / "mug" / names[1] / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 4}')
    assert sources.sha256_of_source(tmp_path / "mug") != before


def test_parts_of_a_folder_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    adapter(tmp_path / "a" / "unet")
    adapter(tmp_path / "a" / "te", Q_PROJ)
    with pytest.raises(ConceptFileError, match="weights in its folder 'te' too, which is no adapter for a model"):
        Concept.load(tmp_path / "a")
    lora(tmp_path / "b" / "lora.safetensors")
    lora(tmp_path / "b" / "unet" / "more.safetensors")
    with pytest.raises(ConceptFileError, match="weights in its folder 'unet' too"):
        Concept.load(tmp_path / "b")
    lora(tmp_path / "c" / "lora.safetensors")
    adapter(tmp_path / "c" / "text_encoder", Q_PROJ).unlink()
    with pytest.raises(ConceptFileError, match="has an adapter's settings but no weights"):
        Concept.load(tmp_path / "c")
    lora(tmp_path / "d" / "lora.safetensors")
    torch.save({"state": {}}, tmp_path / "d" / "other.ckpt")
    with pytest.raises(ConceptFileError, match="other.ckpt holds no concept that is known"):
        Concept.load(tmp_path / "d")


def test_what_a_training_leaves_is_passed_over(tmp_path: Path) -> None:
    """Accelerate's and transformers' states, earlier checkpoints, and embeddings of earlier steps."""
    folder = tmp_path / "checkpoint-500"
    weights = lora(folder / "pytorch_lora_weights.safetensors")
    token = embedding(folder / "learned_embeds.safetensors")
    before = sources.sha256_of_source(folder)
    embedding(folder / "learned_embeds-steps-100.safetensors")
    for name in ("optimizer.bin", "optimizer_1.bin", "optimizer.pt", "scheduler.bin", "scaler.pt", "sampler.bin",
                 "rng_state_0.pth", "training_args.bin", "random_states_0.pkl"):  # fmt: skip
        torch.save({"state": {}, "param_groups": [{"lr": 1e-4}]}, folder / name)
    lora(folder / "checkpoint-100" / "pytorch_lora_weights.safetensors")
    (folder / "logs").mkdir()
    (folder / "logs" / "events.out").write_text("")
    (folder / "sample.png").write_bytes(b"")
    assert sources.find_files(folder) == [token, weights]
    assert sources.sha256_of_source(folder) == before
    assert set(Concept.load(folder).unet) == {LAYER}


def test_a_folder_of_checkpoints_alone_names_one(tmp_path: Path) -> None:
    for number in (100, 200):
        lora(tmp_path / f"checkpoint-{number}" / "pytorch_lora_weights.safetensors")
    torch.save({}, tmp_path / "optimizer.bin")
    with pytest.raises(ConceptFileError, match="one of a training's checkpoints in it, such as 'checkpoint-200'"):
        Concept.load(tmp_path)


@pytest.mark.parametrize("name", ["a" * 300, "user/" + "a" * 300, "a/" * 3000, "a\0b", ""])
def test_names_that_no_file_has(name: str) -> None:
    with pytest.raises(ConceptFileError, match="no concept file|folder without"):
        Concept.load(name)
    assert inspect(name).problem is not None
