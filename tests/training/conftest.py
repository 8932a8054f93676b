"""A tiny model to train on, and images of one subject."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image, ImageDraw
from torch import Tensor

from concept_conductor import Concept, ConceptConductorPipeline
from concept_conductor.backbones.base import Backbone
from concept_conductor.backbones.sd15 import SD15Backbone
from concept_conductor.training.config import TrainingConfig
from tests.compare import assert_close
from tests.conftest import SMALL_LAYER, TINY, TINY_XL, small_unet

SIDE = 64


@pytest.fixture(scope="session")
def published() -> Backbone:
    """A random SD1.5 of the published layout; latents of 64 px images are 8x8."""
    return ConceptConductorPipeline.from_pretrained(TINY, torch_dtype=torch.float32).backbone


@pytest.fixture(scope="session")
def backbone(published: Backbone) -> Backbone:
    """The same with a much smaller U-Net of four cross-attention layers."""
    return SD15Backbone(
        unet=small_unet(),
        vae=published.vae,
        text_encoder=published.text_encoders[0].model,
        tokenizer=published.text_encoders[0].tokenizer,
        scheduler=published.scheduler,
        defaults=published.defaults.overridden({"layout_layer": SMALL_LAYER, "mask_layer": SMALL_LAYER}),
        device=published.device,
    )


@pytest.fixture(scope="session")
def backbone_xl() -> Backbone:
    """A random SDXL with a small U-Net of four cross-attention layers, two of them with several blocks."""
    pipe = ConceptConductorPipeline.from_pretrained(TINY_XL, torch_dtype=torch.float32)
    torch.manual_seed(0)
    pipe.unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=32,
        attention_head_dim=(2, 4),
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64,
    )
    layer = "up_blocks.0.attentions.1.transformer_blocks.1.attn1"
    pipe.defaults = pipe.defaults.overridden({"layout_layer": layer, "mask_layer": layer})
    return pipe.backbone


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of three images with masks and captions."""
    return draw(tmp_path / "photos", 3)


def draw(folder: Path, count: int, masks: bool = True, captions: bool = True) -> Path:
    """Write images of a red square on blue."""
    (folder / "masks").mkdir(parents=True)
    for index in range(count):
        box = (10 + 5 * index, 20, 34 + 5 * index, 50)
        image, mask = Image.new("RGB", (SIDE, SIDE), "navy"), Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(image).rectangle(box, fill="red")
        ImageDraw.Draw(mask).rectangle(box, fill=255)
        image.save(folder / f"{index}.png")
        if masks:
            mask.save(folder / "masks" / f"{index}.png")
        if captions:
            (folder / f"{index}.txt").write_text("a <TOK> on the beach, red, square\n")
    return folder


def recipe(photos: Path, **changes: Any) -> TrainingConfig:
    """A short training; ``changes`` go over it."""
    fields: dict[str, Any] = {
        "model": str(TINY),
        "images": photos,
        "output": photos.parent / "toy.safetensors",
        "placeholders": ["<toy_1>", "<toy_2>"],
        "class_word": "a",
        "steps": 3,
        "resolution": SIDE,
        "samples": {"prompts": []},
        "checkpoint_every": 2,
    }
    return TrainingConfig.model_validate({**fields, **changes})


def numbers(concept: Concept) -> dict[str, Tensor]:
    """Every trained tensor by name."""
    parts = {"unet": concept.unet, **{f"text{k}": layers for k, layers in enumerate(concept.text_encoders)}}
    found = {f"tokens{k}.{name}": v for k, table in enumerate(concept.tokens) for name, v in table.items()}
    for part, layers in parts.items():
        for name, pair in layers.items():
            found |= {f"{part}.{name}.{half}": tensor for half, tensor in pair._asdict().items()}
    return found


def assert_trained_alike(ours: Concept, theirs: Concept, learning_rate: float) -> None:
    """No number further apart than a tenth of one step.

    Adam makes its step nearly as large as the learning rate for any gradient above rounding, so that a training that
    computes something else, or forgets its averages, is off by whole steps in most numbers.
    """
    assert_close(numbers(ours), numbers(theirs), atol=learning_rate / 10)
