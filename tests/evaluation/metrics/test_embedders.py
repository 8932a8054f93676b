"""Embedders: the real classes on random weights against transformers' own call; the judge's features on renderings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics import embedders
from concept_conductor.evaluation.metrics.crops import NEUTRAL, cut_out
from concept_conductor.evaluation.metrics.embedders import ClipEmbedder, DinoEmbedder, JudgeEmbedder
from concept_conductor.grounding.grounder import Segment
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.io.pretrained import Checkpoint, pillow_processor
from tests.evaluation.conftest import drawn


def noise(seed: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def clip(tiny_clip: Path) -> ClipEmbedder:
    return ClipEmbedder(Checkpoint(str(tiny_clip)), "cpu", local_files_only=True)


@pytest.fixture(scope="module")
def dino(tiny_dino: Path) -> DinoEmbedder:
    return DinoEmbedder(Checkpoint(str(tiny_dino)), "cpu", local_files_only=True)


def test_clip_is_the_cosine_that_clip_itself_gives(clip, tiny_clip) -> None:
    model, tokenizer = CLIPModel.from_pretrained(tiny_clip).eval(), CLIPTokenizer.from_pretrained(tiny_clip)
    processor = pillow_processor("CLIPImageProcessor").from_pretrained(tiny_clip)
    images, texts = [noise(0), noise(1)], ["a dog and a cat on the beach.", "a red mug"]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, pixel_values=processor(images=images, return_tensors="pt")["pixel_values"])
    cosines = clip.embed(images) @ clip.embed_texts(texts).T
    assert torch.allclose(cosines, output.logits_per_image / model.logit_scale.exp(), atol=1e-5)
    assert cosines.std() > 1e-3


def test_dino_is_the_class_token(dino, tiny_dino) -> None:
    model = Dinov2Model.from_pretrained(tiny_dino).eval()
    processor = pillow_processor("BitImageProcessor").from_pretrained(tiny_dino)
    with torch.no_grad():
        expected = model(**processor(images=noise(0), return_tensors="pt")).pooler_output
    assert torch.cosine_similarity(dino.embed([noise(0)]), expected).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("kind", ["clip", "dino", "judge"])
def test_rows_have_length_one_and_do_not_depend_on_the_batch(kind, request, monkeypatch, world) -> None:
    embedder = JudgeEmbedder() if kind == "judge" else request.getfixturevalue(kind)
    images = [drawn(world, name) for name in ("dog/noto", "cat/noto", "mug/noto", "robot/emojione", "dog/emojione")]
    together = embedder.embed(images)
    assert together.dtype == torch.float32 and len(together) == 5
    assert torch.allclose(together.norm(dim=1), torch.ones(5), atol=1e-5)
    monkeypatch.setattr(embedders, "BATCH", 2)
    assert torch.allclose(embedder.embed(images), together, atol=1e-5)
    assert len(embedder.embed([])) == 0


def test_half_precision_gives_nearly_the_same(clip, dino, monkeypatch) -> None:
    monkeypatch.setattr(embedders, "precision", lambda device: torch.float16)
    for full in (clip, dino):
        half = type(full)(full.checkpoint, "cpu")
        assert torch.cosine_similarity(half.embed([noise(3)]), full.embed([noise(3)])).item() > 0.999
        assert half.model.dtype == torch.float16


def test_judge_features_tell_designs_apart(world) -> None:
    names = ["dog/noto", "dog/emojione", "cat/noto", "cat/emojione", "mug/noto", "mug/emojione"]
    grounder, crops = JudgeGrounder(), []
    for name in names:
        for seed in (0, 1):
            image = drawn(world, name, backdrop=seed, seed=seed)
            crops.append(cut_out(image, grounder.find(image, [name.split("/")[0]])[0][0]))
    vectors = JudgeEmbedder().embed(crops).view(len(names), 2, -1)
    alike = vectors[:, 0] @ vectors[:, 1].T
    assert alike.diagonal().min() > 0.9
    assert (alike - torch.eye(len(names))).max() < 0.8
    assert JudgeEmbedder().embed([Image.new("RGB", (40, 40), NEUTRAL)]).norm() == 0


def test_a_model_of_another_kind_is_named(tiny_dino, tiny_clip) -> None:
    with pytest.raises(ConductorError, match=r"kind 'dinov2'; expected 'clip'"):
        ClipEmbedder(Checkpoint(str(tiny_dino)), "cpu").embed([noise(0)])
    with pytest.raises(ConductorError, match="could not be loaded"):
        DinoEmbedder(Checkpoint("nobody/nothing-of-the-kind"), "cpu", local_files_only=True).embed([noise(0)])


def test_cut_outs_show_the_object_alone_in_the_middle_of_a_square() -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[5:9, 10:20] = (255, 0, 0)
    mask = np.zeros((20, 30), bool)
    mask[5:9, 10:20] = True
    mask[5, 10] = False
    crop = np.asarray(cut_out(Image.fromarray(pixels), Segment("a bar", 1.0, (9.6, 4.7, 20.0, 9.0), mask)))
    assert crop.shape == (11, 11, 3)
    assert (crop[3] == NEUTRAL).all() and (crop[9] == NEUTRAL).all()
    assert (crop[5:8, 1:] == (255, 0, 0)).all() and (crop[4, 2:] == (255, 0, 0)).all()
    assert tuple(crop[4, 1]) == NEUTRAL  # outside the mask
    whole = cut_out(Image.fromarray(pixels), Segment("a bar", 1.0, (0, 0, 5, 5), mask))
    assert (np.asarray(whole) == 0).all()  # no mask inside this box
