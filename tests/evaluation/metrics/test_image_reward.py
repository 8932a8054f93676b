"""ImageReward: a tiny checkpoint of the published layout against the same network written out plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.metrics import image_reward
from concept_conductor.evaluation.metrics.image_reward import DEVIATION, MEAN, ImageReward
from concept_conductor.io.pretrained import Checkpoint
from tests.evaluation.conftest import bert_tokenizer

SEEN, READ, PATCH, SIDE, VOCABULARY = 128, 64, 8, 32, 1032
PROMPT = "a dog on the left."


def published_layout() -> dict[str, Tensor]:
    """Random tensors under the published names: two layers each, heads of 64 as there."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, Tensor] = {}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        weights[f"{name}.weight"] = torch.randn(*shape, generator=generator) * shape[-1] ** -0.5
        if bias:
            weights[f"{name}.bias"] = torch.randn(shape[0], generator=generator) * 0.1

    def norm(name: str, width: int) -> None:
        weights[f"{name}.weight"] = 1 + 0.1 * torch.randn(width, generator=generator)
        weights[f"{name}.bias"] = 0.1 * torch.randn(width, generator=generator)

    eye = "blip.visual_encoder"
    weights[f"{eye}.cls_token"] = torch.randn(1, 1, SEEN, generator=generator)
    weights[f"{eye}.pos_embed"] = torch.randn(1, (SIDE // PATCH) ** 2 + 1, SEEN, generator=generator)
    add(f"{eye}.patch_embed.proj", SEEN, 3, PATCH, PATCH)
    for layer in range(2):
        block = f"{eye}.blocks.{layer}"
        norm(f"{block}.norm1", SEEN)
        add(f"{block}.attn.qkv", 3 * SEEN, SEEN)
        add(f"{block}.attn.proj", SEEN, SEEN)
        norm(f"{block}.norm2", SEEN)
        add(f"{block}.mlp.fc1", 96, SEEN)
        add(f"{block}.mlp.fc2", SEEN, 96)
    norm(f"{eye}.norm", SEEN)
    reader = "blip.text_encoder"
    weights[f"{reader}.embeddings.position_ids"] = torch.arange(40)[None]
    add(f"{reader}.embeddings.word_embeddings", VOCABULARY, READ, bias=False)
    add(f"{reader}.embeddings.position_embeddings", 40, READ, bias=False)
    norm(f"{reader}.embeddings.LayerNorm", READ)
    for layer in range(2):
        block = f"{reader}.encoder.layer.{layer}"
        for kind, width in (("attention", READ), ("crossattention", SEEN)):
            add(f"{block}.{kind}.self.query", READ, READ)
            add(f"{block}.{kind}.self.key", READ, width)
            add(f"{block}.{kind}.self.value", READ, width)
            add(f"{block}.{kind}.output.dense", READ, READ)
            norm(f"{block}.{kind}.output.LayerNorm", READ)
        add(f"{block}.intermediate.dense", 80, READ)
        add(f"{block}.output.dense", READ, 80)
        norm(f"{block}.output.LayerNorm", READ)
    add("blip.vision_proj", 16, SEEN)
    add("blip.text_proj", 16, READ)
    for number, (inward, outward) in zip((0, 2, 4, 6, 7), ((READ, 32), (32, 16), (16, 8), (8, 4), (4, 1))):
        add(f"mlp.layers.{number}", outward, inward)
    return weights


def reference(weights: dict[str, Tensor], pixels: Tensor, tokens: Tensor, attended: Tensor) -> float:
    """The reward of one image `(3, side, side)`, step by step."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        heads = []
        for part in range(query.shape[-1] // 64):
            columns = slice(64 * part, 64 * part + 64)
            weight = query[:, columns] @ key[:, columns].T / 8
            if mask is not None:
                weight = weight.masked_fill(~mask, -torch.inf)
            heads.append(weight.softmax(-1) @ value[:, columns])
        return torch.cat(heads, -1)

    eye = "blip.visual_encoder"
    kernel, bias = weights[f"{eye}.patch_embed.proj.weight"], weights[f"{eye}.patch_embed.proj.bias"]
    patches = F.conv2d(pixels[None], kernel, bias, stride=PATCH)[0].flatten(1).T
    x = torch.cat([weights[f"{eye}.cls_token"][0], patches]) + weights[f"{eye}.pos_embed"][0]
    for layer in range(2):
        block = f"{eye}.blocks.{layer}"
        query, key, value = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(f"{block}.attn.proj", attend(query, key, value))
        x = x + linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x, 1e-6))))
    seen = norm(f"{eye}.norm", x, 1e-6)

    reader = "blip.text_encoder"
    words = weights[f"{reader}.embeddings.word_embeddings.weight"][tokens]
    x = words + weights[f"{reader}.embeddings.position_embeddings.weight"][: len(tokens)]
    x = norm(f"{reader}.embeddings.LayerNorm", x, 1e-12)
    for layer in range(2):
        block = f"{reader}.encoder.layer.{layer}"
        for kind, context, mask in (("attention", None, attended), ("crossattention", seen, None)):
            source = x if context is None else context
            query = linear(f"{block}.{kind}.self.query", x)
            key, value = (linear(f"{block}.{kind}.self.{part}", source) for part in ("key", "value"))
            out = linear(f"{block}.{kind}.output.dense", attend(query, key, value, mask))
            x = norm(f"{block}.{kind}.output.LayerNorm", out + x, 1e-12)
        out = linear(f"{block}.output.dense", F.gelu(linear(f"{block}.intermediate.dense", x)))
        x = norm(f"{block}.output.LayerNorm", out + x, 1e-12)
    x = x[0]
    for number in (0, 2, 4, 6, 7):
        x = linear(f"mlp.layers.{number}", x)
    return (x.item() - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return published_layout()


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("image-reward")
    torch.save(weights, folder / image_reward.FILE)
    bert_tokenizer(folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reward(folder) -> ImageReward:
    return ImageReward(Checkpoint(str(folder)), Checkpoint(str(folder)), "cpu", local_files_only=True)


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def test_equals_the_network_written_out(reward, weights) -> None:
    images = [noise(0, (32, 32)), noise(1, (32, 32))]
    tokens = reward.tokenizer([PROMPT], padding="max_length", max_length=35)
    ids, attended = torch.tensor(tokens["input_ids"][0]), torch.tensor(tokens["attention_mask"][0], dtype=torch.bool)
    assert ids[0] == 101 and len(ids) == 35 and attended.sum() == 8  # [CLS], five words, ".", [SEP]
    for image, found in zip(images, reward.score(images, [PROMPT] * 2)):
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
        pixels = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
        assert found == pytest.approx(reference(weights, pixels, ids, attended), abs=1e-4)


def test_image_and_prompt_both_count(reward, monkeypatch) -> None:
    images = [noise(0, (32, 32)), noise(1, (32, 32)), noise(0, (32, 32))]
    rewards = reward.score(images, [PROMPT, PROMPT, "the red mug"])
    assert len(set(np.round(rewards, 4))) == 3
    monkeypatch.setattr(image_reward, "BATCH", 1)
    assert reward.score(images, [PROMPT, PROMPT, "the red mug"]) == pytest.approx(rewards, abs=1e-4)
    assert reward.score([], []) == []
    assert (MEAN, DEVIATION) == (0.16717362830052426, 1.0333394966054072)


def test_long_prompts_are_cut_and_other_sizes_fitted(reward) -> None:
    image = noise(0, (90, 60))
    short, long = reward.score([image] * 2, ["a dog " * 20, "a dog " * 200])
    assert short == pytest.approx(long, abs=1e-5)
    wide = Image.new("RGB", (64, 32), "black")
    wide.paste(noise(0, (32, 32)), (16, 0))
    assert reward.score([wide], [PROMPT]) == pytest.approx(reward.score([noise(0, (32, 32))], [PROMPT]), abs=1e-4)


def test_missing_and_strange_weights(weights, tmp_path, folder) -> None:
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    for name, content, said in (
        ("missing", {k: v for k, v in weights.items() if "blocks.1.attn" not in k}, "not ImageReward's"),
        ("stranger", weights | {"blip.text_encoder.adapter.weight": torch.zeros(1)}, "not ImageReward's"),
        ("no-head", {k: v for k, v in weights.items() if not k.startswith("mlp")}, "not ImageReward's"),
        ("bomb", {"x": Bomb()}, "more than tensors"),
        ("list", [torch.zeros(1)], "no table of tensors"),
    ):
        torch.save(content, tmp_path / f"{name}.pt")
        broken = ImageReward(Checkpoint(str(tmp_path / f"{name}.pt")), Checkpoint(str(folder)), "cpu")
        with pytest.raises(ConductorError, match=said):
            broken.score([noise(0, (32, 32))], [PROMPT])
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConductorError, match=r"holds no ImageReward\.pt"):
        ImageReward(Checkpoint(str(tmp_path)), Checkpoint(str(folder)), "cpu").score([noise(0, (9, 9))], ["a dog"])
    away = ImageReward(Checkpoint("nobody/nothing"), Checkpoint(str(folder)), "cpu", local_files_only=True)
    with pytest.raises(ConductorError, match="'nobody/nothing' could not be loaded"):
        away.score([noise(0, (9, 9))], ["a dog"])


def test_half_precision_gives_nearly_the_same(reward, folder, monkeypatch) -> None:
    monkeypatch.setattr(image_reward, "precision", lambda device: torch.float16)
    half = ImageReward(Checkpoint(str(folder)), Checkpoint(str(folder)), "cpu")
    image = noise(0, (32, 32))
    assert half.score([image], [PROMPT]) == pytest.approx(reward.score([image], [PROMPT]), abs=0.02)
