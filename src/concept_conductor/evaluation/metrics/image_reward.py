"""ImageReward (Xu et al., 2023): how much people would like an image for its prompt, in standard deviations.

BLIP's ViT-L/16 sees the image at 224 px; BLIP's BERT reads the prompt, padded to 35 tokens, with cross-attention to
the image; linear layers without activations turn its first token into one number. The published package does not
import with transformers 5, so its weights are put into transformers' own BLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from concept_conductor.errors import ConductorError
from concept_conductor.io.pretrained import Checkpoint, best_device, precision

IMAGE_REWARD = Checkpoint("zai-org/ImageReward", "5736be03b2652728fb87788c9797b0570450ab72")
TOKENIZER = Checkpoint("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594")
FILE = "ImageReward.pt"

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
"""Of the raw reward over the authors' validation set."""
TOKENS = 35
HEAD = 64
"""Width of an attention head, of the ViT and of BERT."""
BATCH = 16
PIXEL_MEAN, PIXEL_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

# timm's names, which the file has -> transformers'
_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
)


class Reward(nn.Module):
    """The network, sized by the weights: `(n, 3, side, side)` and `(n, 35)` tokens -> `(n,)` standardised rewards.

    Args:
        weights: by the published names: ``blip.visual_encoder...``, ``blip.text_encoder...``, ``mlp.layers.N...``;
            BLIP's unused projections are left aside.

    Raises:
        ConductorError: weights are missing, or fit nothing.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        vision, text, mlp = (_under(weights, part) for part in ("blip.visual_encoder.", "blip.text_encoder.", "mlp."))
        for pattern, name in _VISION:
            vision = {re.sub(pattern, name, key): tensor for key, tensor in vision.items()}
        text = {key: tensor for key, tensor in text.items() if not key.endswith("position_ids")}
        try:
            self.vision, self.side = _vision(vision)
            self.text = _text(text)
            self.mlp = nn.Sequential(*_linears(mlp))
        except (KeyError, RuntimeError, ValueError) as error:
            raise ConductorError(
                f"the weights are not ImageReward's ({str(error).splitlines()[0]}); expected the published {FILE}"
            ) from error

    def forward(self, pixels: Tensor, tokens: Tensor, attended: Tensor) -> Tensor:
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=tokens,
            attention_mask=attended,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
        ).last_hidden_state
        return (self.mlp(read[:, 0])[:, 0].float() - MEAN) / DEVIATION


class ImageReward:
    """ImageReward with its tokenizer and preprocessing; loaded when first used, and once; fp16 on CUDA.

    Args:
        checkpoint: a hub id, a folder that holds ``ImageReward.pt``, or that file.
        tokenizer: BERT's.
        device: None for the GPU where there is one.
        local_files_only: never ask the hub.
    """

    def __init__(
        self,
        checkpoint: Checkpoint = IMAGE_REWARD,
        tokenizer: Checkpoint = TOKENIZER,
        device: str | torch.device | None = None,
        *,
        local_files_only: bool = False,
    ) -> None:
        self.checkpoint, self.tokenizer_checkpoint = checkpoint, tokenizer
        self.device, self.local_files_only = best_device(device), local_files_only

    @torch.inference_mode()
    def score(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float]:
        """Return the reward of each image for its prompt: 0 is average, 1 a standard deviation better."""
        rewards: list[float] = []
        for start in range(0, len(images), BATCH):
            pixels = torch.stack([self._pixels(image) for image in images[start : start + BATCH]])
            tokens = self.tokenizer(
                list(prompts[start : start + BATCH]),
                padding="max_length",
                truncation=True,
                max_length=TOKENS,
                return_tensors="pt",
            ).to(self.device)
            dtype = precision(self.device)
            values = self.network(pixels.to(self.device, dtype), tokens["input_ids"], tokens["attention_mask"])
            rewards.extend(values.tolist())
        return rewards

    def identity(self) -> str:
        """Return both checkpoints'."""
        return f"{self.checkpoint.identity()} {self.tokenizer_checkpoint.identity()}"

    @cached_property
    def network(self) -> Reward:
        """The network, on its device."""
        network = Reward(read_weights(self.checkpoint.file(FILE, local_files_only=self.local_files_only)))
        return network.to(self.device, precision(self.device)).eval().requires_grad_(False)

    @cached_property
    def tokenizer(self) -> Any:
        """BERT's own."""
        from transformers import BertTokenizerFast

        return self.tokenizer_checkpoint.load(BertTokenizerFast, local_files_only=self.local_files_only)

    def _pixels(self, image: Image.Image) -> Tensor:
        """Return ``(3, side, side)``: shorter side resized (bicubic), middle cut out, CLIP's normalisation."""
        side = self.network.side
        scale = side / min(image.size)
        size = (max(side, int(image.width * scale)), max(side, int(image.height * scale)))
        image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        pixels = torch.from_numpy(np.array(image.crop((left, top, left + side, top + side)))).float() / 255
        return ((pixels - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_DEVIATION)).permute(2, 0, 1)


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of ``ImageReward.pt``; no code in it is run.

    Raises:
        ConductorError: it is damaged, or holds more than tensors.
    """
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling fails in many ways
        raise ConductorError(
            f"'{file}' is damaged, or holds more than tensors; expected the published {FILE}"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise ConductorError(f"'{file}' holds no table of tensors; expected the published {FILE}")
    return {name: tensor.float() for name, tensor in weights.items()}


def _under(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _layers(weights: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _vision(weights: Mapping[str, Tensor]) -> tuple[nn.Module, int]:
    """Make BLIP's ViT; return it and the side of its images in pixels."""
    from transformers import BlipVisionConfig, BlipVisionModel

    width, _, patch, _ = weights["embeddings.patch_embedding.weight"].shape
    side = patch * round((weights["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(weights["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=_layers(weights, r"encoder\.layers\.(\d+)\."),
        num_attention_heads=width // HEAD,
        image_size=side,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    model = BlipVisionModel(config)
    model.load_state_dict(weights)
    return model, side


def _text(weights: Mapping[str, Tensor]) -> nn.Module:
    """Make BLIP's BERT with cross-attention."""
    from transformers import BlipTextConfig, BlipTextModel

    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    config = BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        encoder_hidden_size=weights["encoder.layer.0.crossattention.self.key.weight"].shape[1],
        intermediate_size=len(weights["encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_layers(weights, r"encoder\.layer\.(\d+)\."),
        num_attention_heads=width // HEAD,
        max_position_embeddings=len(weights["embeddings.position_embeddings.weight"]),
        is_decoder=True,  # only so are there cross-attention layers; the forward attends both ways all the same
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
        pad_token_id=0,
    )
    model = BlipTextModel(config, add_pooling_layer=False)
    model.load_state_dict(weights)
    return model


def _linears(weights: Mapping[str, Tensor]) -> list[nn.Linear]:
    """Make the linear layers ``layers.N`` in order; the numbers between are dropout's."""
    layers = []
    for number in sorted({int(name.split(".")[1]) for name in weights}):
        weight, bias = weights[f"layers.{number}.weight"], weights[f"layers.{number}.bias"]
        layer = nn.Linear(*weight.shape[::-1])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    if not layers or layers[-1].out_features != 1:
        raise ValueError("its last layers give no single number")
    return layers
