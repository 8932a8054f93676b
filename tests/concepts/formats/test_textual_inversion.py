"""Textual inversions of every layout mean what they mean to diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from torch import Tensor, nn

from concept_conductor import ConceptConductorPipeline
from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import ConceptFileError, FamilyError
from tests.conftest import TINY, TINY_XL

DIM = 32


@pytest.fixture(scope="module")
def vectors() -> Tensor:
    return torch.randn(3, DIM, generator=torch.Generator().manual_seed(0))


def automatic1111(vectors: Tensor, **changes: Any) -> dict[str, Any]:
    """What AUTOMATIC1111 saves."""
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": vectors},
        "name": "<mug>",
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": "v1-5",
        **changes,
    }


WRITERS: dict[str, tuple[str, Callable[[Tensor, Path], object]]] = {
    "diffusers": ("learned_embeds.safetensors", lambda v, path: save_file({"<mug>": v}, path)),
    "diffusers, old": ("learned_embeds.bin", lambda v, path: torch.save({"<mug>": v}, path)),
    "diffusers, one vector": ("one.bin", lambda v, path: torch.save({"<mug>": v[0].clone()}, path)),
    "AUTOMATIC1111": ("a.pt", lambda v, path: torch.save(automatic1111(v), path)),
    "AUTOMATIC1111, parameters": ("b.pt", lambda v, path: torch.save(automatic1111(nn.Parameter(v)), path)),
    "the first trainer": (
        "c.pt",
        lambda v, path: torch.save(
            {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": nn.ParameterDict({"*": nn.Parameter(v)})},
            path,
        ),
    ),
    "the first trainer, a placeholder of one's own": (
        "d.pt",
        lambda v, path: torch.save(
            {
                "string_to_token": {"sks": torch.tensor(48136)},
                "string_to_param": nn.ParameterDict({"sks": nn.Parameter(v)}),
            },
            path,
        ),
    ),
    "bare": ("<mug>.safetensors", lambda v, path: save_file({"emb_params": v}, path)),
}


@pytest.mark.parametrize("writer", list(WRITERS))
def test_the_text_is_encoded_as_by_diffusers(
    tmp_path: Path, tiny_pipe: ConceptConductorPipeline, vectors: Tensor, writer: str
) -> None:
    name, write = WRITERS[writer]
    write(vectors, tmp_path / name)
    concept = Concept.load(tmp_path / name)
    (placeholder,) = concept.placeholders
    expected_vectors = vectors[:1] if writer == "diffusers, one vector" else vectors
    assert placeholder == ("c" if writer == "the first trainer" else "sks" if "own" in writer else "<mug>")
    assert concept.positions == {placeholder: len(expected_vectors)}

    diffusers = StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None)
    diffusers.load_textual_inversion({"<mug>": expected_vectors.clone()})
    expected, negative = diffusers.encode_prompt("A <mug> and one more <mug> on the beach.", "cpu", 1, True, "")
    prompt = f"A {placeholder} and one more {placeholder} on the beach."
    texts = tiny_pipe.backbone.encode_concept_prompts(concept, 1.0, [prompt, ""])
    for ours, theirs in zip(texts, (expected, negative), strict=True):
        assert ours.texts.shape == (1, 1, 16, *theirs.shape[1:])
        assert (ours.texts[0, 0] - theirs).abs().max() <= 1e-5


def learned(encoder: nn.Module, tokenizer: Any, names: list[str]) -> Tensor:
    """Rows of an embedding that transformers has made for new tokens, as a training would leave them."""
    tokenizer.add_tokens(names)
    encoder.resize_token_embeddings(len(tokenizer))
    table = encoder.get_input_embeddings().weight
    with torch.no_grad():
        for name in names:
            table[tokenizer.convert_tokens_to_ids(name)] = torch.randn(table.shape[1]) * 0.05
    return table[tokenizer.convert_tokens_to_ids(names)].detach().clone()


@pytest.mark.parametrize("layout", ["clip_l and clip_g", "two files"])
def test_sdxl_is_encoded_as_by_transformers_own_embeddings(
    tmp_path: Path, tiny_xl: ConceptConductorPipeline, layout: str
) -> None:
    """Two tokens learned in both text encoders; the trained pipeline itself says what the text means."""
    torch.manual_seed(0)
    trained = StableDiffusionXLPipeline.from_pretrained(TINY_XL, add_watermarker=False)
    names = ["<mug>", "<mug>_1"]
    rows = [
        learned(trained.text_encoder, trained.tokenizer, names),
        learned(trained.text_encoder_2, trained.tokenizer_2, names),
    ]
    if layout == "two files":
        save_file({"<mug>": rows[0]}, tmp_path / "learned_embeds.safetensors")
        save_file({"<mug>": rows[1]}, tmp_path / "learned_embeds_2.safetensors")
        concept = Concept.load(tmp_path)
    else:
        save_file(dict(zip(("clip_l", "clip_g"), rows)), tmp_path / "<mug>.safetensors")
        concept = Concept.load(tmp_path / "<mug>.safetensors")
    assert concept.positions == {"<mug>": 2} and concept.family == "sdxl"
    expected, _, pooled, _ = trained.encode_prompt("A <mug> on the beach.", device="cpu")  # knows of <mug>_1
    (text,) = tiny_xl.backbone.encode_concept_prompts(concept, 1.0, ["A <mug> on the beach."])
    assert text.pooled is not None
    assert (text.texts[0, 0] - expected).abs().max() <= 1e-5
    assert (text.pooled[0, 0] - pooled).abs().max() <= 1e-5


def test_notes_of_the_training_are_kept(tmp_path: Path, vectors: Tensor) -> None:
    torch.save(automatic1111(vectors, name="*"), tmp_path / "cup.pt")
    concept = Concept.load(tmp_path / "cup.pt")
    assert concept.placeholders == ("cup",)
    assert concept.metadata == {"step": "500", "sd_checkpoint_name": "v1-5"}


def test_several_placeholders_of_their_own(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"sks": torch.ones(1, 8), "<dog>": torch.ones(2, 8)}}, tmp_path / "a.pt")
    assert Concept.load(tmp_path / "a.pt").positions == {"sks": 1, "<dog>": 2}


def test_notes_that_nobody_can_read_are_left_out(tmp_path: Path, vectors: Tensor) -> None:
    for step in (10**600, "5" * 5000, "a\x1b[2Jb", True, [1], 1.5):
        torch.save(automatic1111(vectors, step=step), tmp_path / "cup.pt")
        assert "step" not in Concept.load(tmp_path / "cup.pt").metadata


def test_sdxl_pairs(tmp_path: Path) -> None:
    save_file({"clip_l": torch.randn(2, 768), "clip_g": torch.randn(2, 1280)}, tmp_path / "mug.safetensors")
    concept = Concept.load(tmp_path / "mug.safetensors")
    assert concept.family == "sdxl"
    assert [table["mug"].shape for table in concept.tokens] == [(2, 1, 768), (2, 1, 1280)]
    again = Concept.load(concept.save(tmp_path / "ours.safetensors"))
    assert again.positions == {"mug": 2} and again.family == "sdxl"
    assert torch.equal(again.tokens[1]["mug"], concept.tokens[1]["mug"])


def test_sdxl_in_two_files(tmp_path: Path) -> None:
    """As diffusers' trainer for SDXL writes it."""
    folder = tmp_path / "mug"
    folder.mkdir()
    save_file({"<mug>": torch.randn(2, 768)}, folder / "learned_embeds.safetensors")
    save_file({"<mug>": torch.randn(2, 1280)}, folder / "learned_embeds_2.safetensors")
    concept = Concept.load(folder)
    assert concept.family == "sdxl"
    assert [table["<mug>"].shape for table in concept.tokens] == [(2, 1, 768), (2, 1, 1280)]
    with pytest.raises(ConceptFileError, match="the same"):
        Concept.load(folder / "learned_embeds_2.safetensors")
    save_file({"<mug>": torch.randn(3, 1280)}, folder / "learned_embeds_2.safetensors")
    with pytest.raises(ConceptFileError, match="as many positions"):
        Concept.load(folder)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (automatic1111(torch.ones(2, 4), optimizer={"state": 1}), "optimizer"),
        (automatic1111(torch.ones(2, 4), string_to_param={"*": torch.ones(2, 4), "+": torch.ones(2, 4)}), "'\\*'"),
        (automatic1111(torch.ones(2, 4), string_to_param=[1]), "'\\*'"),
        (automatic1111(torch.ones(2, 4, 4)), "vector"),
        (automatic1111(torch.ones(2, 4).int()), "int32"),
        (automatic1111(torch.full((2, 4), torch.nan)), "undefined"),
        (automatic1111(torch.ones(80, 4)), "75 positions"),
        ({"clip_l": torch.ones(2, 8), "clip_g": torch.ones(3, 8)}, "as many positions"),
        ({"<a>": torch.ones(2, 8), "<b>": torch.ones(2, 9)}, "different shapes"),
        ({"<a>": "text"}, "no concept"),
    ],
)
def test_malformed_files(tmp_path: Path, content: dict[str, Any], word: str) -> None:
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ConceptFileError, match=word):
        Concept.load(tmp_path / "bad.pt")


def test_a_hostile_parameter_dict_is_only_data(tmp_path: Path) -> None:
    table = nn.ParameterDict()
    table.__dict__["_parameters"] = "no table"
    torch.save({"string_to_param": table}, tmp_path / "bad.pt")
    with pytest.raises(ConceptFileError, match="string_to_param"):
        Concept.load(tmp_path / "bad.pt")


def test_a_model_of_another_width_refuses_it(tmp_path: Path, tiny_pipe: ConceptConductorPipeline) -> None:
    save_file({"<mug>": torch.randn(2, 768)}, tmp_path / "mug.safetensors")
    with pytest.raises(FamilyError, match=r"<mug> of the concept 'mug' has embeddings of shape \(2, 1, 768\)"):
        tiny_pipe.backbone.check(Concept.load(tmp_path / "mug.safetensors"))
