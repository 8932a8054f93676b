"""Tiny random checkpoints of the models that measure, saved as the hub has them; drawn images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
)

from concept_conductor.io.pretrained import pillow_processor
from concept_conductor.mini.presets import CPU
from concept_conductor.mini.world import World

WORDS = ("a", "dog", "cat", "red", "mug", "on", "the", "left")


def bert_tokenizer(folder: Path) -> BertTokenizerFast:
    """Few words; the special tokens have BERT's own numbers, which Grounding DINO counts on."""
    vocabulary = [f"[unused{index}]" for index in range(1030)]
    for index, token in ((0, "[PAD]"), (100, "[UNK]"), (101, "[CLS]"), (102, "[SEP]"), (1012, "."), (1029, "?")):
        vocabulary[index] = token
    vocabulary[200 : 200 + len(WORDS)] = WORDS
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    return BertTokenizerFast(vocab={token: index for index, token in enumerate(vocabulary)})


@pytest.fixture(scope="session")
def tiny_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Grounding DINO."""
    folder = tmp_path_factory.mktemp("grounding-dino")
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(
            image_size=64, embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config={
            "model_type": "bert", "vocab_size": 1030, "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64,
        },
        num_queries=40, d_model=32, max_text_len=64,
        encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=2,
        decoder_layers=2, decoder_ffn_dim=32, decoder_attention_heads=2,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    bert_tokenizer(folder).save_pretrained(folder)
    size = {"shortest_edge": 96, "longest_edge": 160}
    pillow_processor("GroundingDinoImageProcessor")(size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random SAM."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8,
        mlp_dim=32, window_size=4, global_attn_indexes=[1], num_pos_feats=8,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    masks = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, iou_head_depth=2, iou_head_hidden_dim=16
    )
    SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks)).save_pretrained(
        folder
    )
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    pillow_processor("SamImageProcessor")(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def world() -> World:
    """The sticker world, with the held-out designs."""
    return CPU.world(None)


def drawn(world: World, *designs: str, backdrop: int = 0, seed: int = 0) -> Image.Image:
    """A rendering of `designs` ("dog/noto"), from left to right."""
    cells = torch.tensor([[world.atlas.index(name) for name in designs]])
    scene = world.draw(cells, torch.tensor([backdrop]), torch.Generator().manual_seed(seed))
    return Image.fromarray(((scene.images[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of images and texts."""
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["<|startoftext|>", "<|endoftext|>", *(f"{word}</w>" for word in (*WORDS, "and", "beach", ".", "<", ">"))]
    pieces = sorted({letter for word in words[2:] for letter in (*word[:-4], f"{word[-5]}</w>")} - set(words))
    tokens = {token: index for index, token in enumerate([*words, *pieces])}
    config = CLIPConfig(
        text_config=width | {"vocab_size": len(tokens), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config=width | {"image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    merges = []
    for word in words[2:]:
        parts = [*word[:-5], f"{word[-5]}</w>"]
        while len(parts) > 1:
            pair = (parts[-2], parts[-1])
            tokens.setdefault("".join(pair), len(tokens))
            merges.append(pair)
            parts[-2:] = ["".join(pair)]
    CLIPTokenizer(vocab=tokens, merges=list(dict.fromkeys(merges))).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    pillow_processor("CLIPImageProcessor")(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random DINOv2."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7)
    Dinov2Model(config).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    pillow_processor("BitImageProcessor")(**sizes).save_pretrained(folder)
    return folder
