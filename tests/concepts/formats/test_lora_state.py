"""LoRA files whose parts do not fit each other are refused in one clear sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from concept_conductor.concepts.concept import Concept
from concept_conductor.errors import ConceptFileError
from tests.concepts.files import pair

LAYER = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
OTHER = LAYER.replace("attn1", "attn2")
STABILITY = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q"
Q_PROJ = "encoder.layers.0.self_attn.q_proj"
UNET = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{LAYER}.lora_down.weight": torch.ones(2, 8)}, (LAYER, "partner")),
        ({f"{LAYER}.lora_up.weight": torch.ones(8, 2)}, (LAYER, "partner")),
        ({**pair(LAYER), f"{OTHER}.alpha": torch.tensor(1.0)}, (f"{OTHER}.alpha", "no low-rank pair")),
        ({**pair(LAYER), "lora_unet_other.alpha": torch.tensor(1.0)}, ("lora_unet_other.alpha", "no U-Net")),
        ({**pair(LAYER), f"{LAYER}.alpha": torch.tensor(torch.nan)}, ("alpha", "finite")),
        ({**pair(LAYER), f"{LAYER}.alpha": torch.ones(3)}, ("alpha", "(3,)")),
        ({**pair(LAYER), "stray": torch.ones(1)}, ("stray",)),
        ({**pair(LAYER), f"{LAYER}.scale": torch.ones(1)}, (f"{LAYER}.scale",)),
        (pair("lora_unet_input_blocks_x"), ("lora_unet_input_blocks_x", "no U-Net")),
        ({**pair(LAYER), **pair(STABILITY)}, (LAYER, STABILITY, "one layer twice")),
        ({**pair(LAYER), f"{LAYER}.lora_down.weight": torch.full((2, 8), torch.nan)}, ("undefined",)),
        ({**pair(LAYER), f"{LAYER}.lora_down.weight": torch.ones(2, 8, 3)}, ("(2, 8, 3)",)),
        (
            {f"{LAYER}.lora_down.weight": torch.ones(2, 8, 3, 3), f"{LAYER}.lora_up.weight": torch.ones(8, 2, 3, 3)},
            ("3x3", "1x1"),
        ),
        ({f"{UNET}.lora_A.weight": torch.ones(2, 8)}, ("one half",)),
        ({**pair(UNET, ".lora_A.weight", ".lora_B.weight"), f"{UNET}.lora_B.bias": torch.ones(8)}, ("lora_B.bias",)),
        ({**pair(UNET, ".lora_A.weight", ".lora_B.weight"), "vae.conv": torch.ones(8)}, ("vae.conv",)),
        (
            {**pair(UNET, ".lora_A.weight", ".lora_B.weight"), **pair(UNET, ".lora.down.weight", ".lora.up.weight")},
            ("one layer twice", f"{UNET}.lora_A.weight", f"{UNET}.lora.down.weight"),
        ),
        (
            {
                **pair(f"text_encoder.{Q_PROJ}", ".lora_A.weight", ".lora_B.weight"),
                **pair(f"text_encoder.text_model.{Q_PROJ}", ".lora_A.weight", ".lora_B.weight"),
            },
            (f"text_encoder.{Q_PROJ}", "twice"),
        ),
    ],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, tensors: dict[str, Tensor], words: tuple[str, ...]) -> None:
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ConceptFileError) as error:
        Concept.load(tmp_path / "bad.safetensors")
    message = str(error.value)
    assert str(tmp_path / "bad.safetensors") in message and "\n" not in message
    assert all(word in message for word in words), message
