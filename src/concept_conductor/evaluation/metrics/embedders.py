"""Embedders: images -> vectors whose cosine says how alike they are.

CLIP's image encoder (CLIP-I, and with its text encoder CLIP-T) and DINOv2 are the paper's; the judge's features stand
in for them in the embedded model's world.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.evaluation.metrics.crops import NEUTRAL
from concept_conductor.io.files import content_hash
from concept_conductor.io.pretrained import Checkpoint, best_device, pillow_processor, precision
from concept_conductor.io.tensors import to_pixels
from concept_conductor.mini.judge import Judge

CLIP = Checkpoint("openai/clip-vit-base-patch32", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268")
DINOV2 = Checkpoint("facebook/dinov2-base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415")

BATCH = 32
"""Images in one forward."""


class Embedder(Protocol):
    """Turns images into vectors."""

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """Return ``(n, d)`` fp32 on the CPU, rows of length 1; ``(0, d)`` or ``(0, 0)`` for no image."""
        ...

    def identity(self) -> str:
        """Return what tells this instrument's results from another's in a cache."""
        ...


class TransformersEmbedder:
    """A vision model of transformers', loaded when first used, and once; fp16 on CUDA.

    Args:
        checkpoint: a hub id or a folder; None for the published one.
        device: None for the GPU where there is one.
        local_files_only: never ask the hub.
    """

    published: Checkpoint
    model_class: str
    processor_class: str

    def __init__(
        self,
        checkpoint: Checkpoint | None = None,
        device: str | torch.device | None = None,
        *,
        local_files_only: bool = False,
    ) -> None:
        self.checkpoint, self.device = checkpoint or self.published, best_device(device)
        self.local_files_only = local_files_only

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """See :meth:`Embedder.embed`."""
        rows = []
        for start in range(0, len(images), BATCH):
            dtype = self.model.dtype
            prepared = [image.convert("RGB") for image in images[start : start + BATCH]]
            pixels = self.processor(images=prepared, return_tensors="pt")["pixel_values"]
            rows.append(self._vectors(pixels.to(self.device, dtype)).float().cpu())
        return F.normalize(torch.cat(rows), dim=-1) if rows else torch.zeros(0, 0)

    def identity(self) -> str:
        """Return the checkpoint's."""
        return self.checkpoint.identity()

    @cached_property
    def model(self) -> Any:
        """The model, on its device."""
        import transformers

        model = self._load(getattr(transformers, self.model_class), dtype=precision(self.device))
        return model.to(self.device).eval().requires_grad_(False)

    @cached_property
    def processor(self) -> Any:
        """What makes the model's input of images."""
        return self._load(pillow_processor(self.processor_class))

    def _load(self, kind: Any, **options: Any) -> Any:
        return self.checkpoint.load(kind, local_files_only=self.local_files_only, **options)

    def _vectors(self, pixels: Tensor) -> Tensor:
        raise NotImplementedError


class ClipEmbedder(TransformersEmbedder):
    """CLIP: images and texts in one space (Radford et al., 2021)."""

    published, model_class, processor_class = CLIP, "CLIPModel", "CLIPImageProcessor"

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return ``(n, d)`` as :meth:`embed`; texts are cut after the model's 77 tokens."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(self.device)
        pooled = self.model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).pooler_output
        return F.normalize(self.model.text_projection(pooled).float().cpu(), dim=-1)

    @cached_property
    def tokenizer(self) -> Any:
        """CLIP's own."""
        from transformers import CLIPTokenizer

        return self._load(CLIPTokenizer)

    def _vectors(self, pixels: Tensor) -> Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)


class DinoEmbedder(TransformersEmbedder):
    """DINOv2 (Oquab et al., 2023): the class token after the last norm."""

    published, model_class, processor_class = DINOV2, "Dinov2Model", "BitImageProcessor"

    def _vectors(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]


class JudgeEmbedder:
    """The judge's own features, for cut-outs of the embedded model's sticker world only.

    It is no general image embedding. The vector is the last hidden layer of the network that was trained to tell the
    world's designs apart, averaged over the pixels in which it sees an object. On cut-outs of renderings, two of one
    design have cosines of about 0.99, other designs of one class 0.4 on average, other classes 0.1. An image in
    which the judge sees nothing is embedded as zeros, alike to none.

    Args:
        judge: None for the one that is shipped.
    """

    FILLED = 0.55
    """Share of the network's side that a cut-out takes; objects of the world it knows are about that large."""

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = judge or Judge.load()

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """See :meth:`Embedder.embed`; d is 96."""
        network = self.judge.network
        rows = [torch.zeros(0, network.head.in_channels)]
        for start in range(0, len(images), BATCH):
            pixels = torch.stack([self._pixels(image) for image in images[start : start + BATCH]])
            features: list[Tensor] = []
            hook = network.head.register_forward_pre_hook(lambda _, inputs, kept=features: kept.append(inputs[0]))
            try:
                shares = network(pixels)[:, :-3].softmax(1)  # (n, designs + none, h, w)
            finally:
                hook.remove()
            something = (shares[:, -1:] < 0.5).float()
            rows.append((features[0] * something).sum((2, 3)))
        return F.normalize(torch.cat(rows), dim=-1)

    def identity(self) -> str:
        """Return a hash of the judge's weights."""
        return f"judge {content_hash(self.judge.network.state_dict())[:16]}"

    def _pixels(self, image: Image.Image) -> Tensor:
        """Return ``(3, size, size)`` in -1..1: the image in the middle of a neutral one."""
        size = self.judge.size
        scale = self.FILLED * size / max(image.size)
        small = image.convert("RGB").resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
        )
        canvas = Image.new("RGB", (size, size), NEUTRAL)
        canvas.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
        return to_pixels(canvas)
