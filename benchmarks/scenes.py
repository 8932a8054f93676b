"""What the benchmarks sample: random concepts on any model, side by side in a layout of noise."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from concept_conductor import Concept, ConceptConductorPipeline, ConceptPrompt, Layout
from concept_conductor.backbones.text_encoders import TextEncoder
from concept_conductor.concepts.data import LowRank
from concept_conductor.concepts.layer_names import TEXT_LINEARS, UNET_LINEARS
from concept_conductor.denoiser.layers import attention_layers, block_of, cross_attention_names

RANK = 4


def random_concept(pipe: ConceptConductorPipeline, seed: int) -> ConceptPrompt:
    """An ED-LoRA of the paper's shape (rank 4 on all attention layers) with small random weights."""
    generator = torch.Generator().manual_seed(seed)

    def update(linear: torch.nn.Linear) -> LowRank:
        return LowRank(
            torch.randn(RANK, linear.in_features, generator=generator) * 0.1,
            torch.randn(linear.out_features, RANK, generator=generator) * 0.1,
        )

    layers = attention_layers(pipe.unet)
    unet = {
        f"{name}.{part}": update(layer.get_submodule(part)) for name, layer in layers.items() for part in UNET_LINEARS
    }
    texts = [
        {name.removeprefix("text_model."): update(reader.model.get_submodule(name)) for name in attention_of(reader)}
        for reader in pipe.backbone.text_encoders
    ]
    count = len(cross_attention_names(pipe.unet))
    tables = [
        {f"<c{seed}_{k}>": torch.randn(count, reader.dim, generator=generator) * 0.02 for k in (1, 2)}
        for reader in pipe.backbone.text_encoders
    ]
    concept = Concept(f"random-{seed}", tuple(tables), tuple(texts), unet)
    return ConceptPrompt(concept, f"a <c{seed}_1> <c{seed}_2> on the beach")


def attention_of(reader: TextEncoder) -> list[str]:
    """The names of a text encoder's attention projections."""
    return [name for name, _ in reader.model.named_modules() if name.endswith(TEXT_LINEARS)]


def side_by_side(width: int, height: int, concepts: int) -> Layout:
    """A layout of noise whose masks are vertical stripes."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    masks = []
    for index in range(concepts):
        mask = np.zeros((height, width), dtype=bool)
        mask[:, index * width // concepts : (index + 1) * width // concepts] = True
        masks.append(mask)
    return Layout(Image.fromarray(pixels), "things on the beach", masks=masks)


@torch.no_grad()
def owed(pipe: ConceptConductorPipeline, entry: ConceptPrompt, pixels: int) -> dict[str, int]:
    """What has to be kept for one concept when paths run one by one, in bytes by name (fp32, one image)."""
    layers = attention_layers(pipe.unet)
    shapes: dict[str, torch.Size] = {}
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: shapes.update({name: output.shape}))
        for name, layer in layers.items()
    ]
    conditioning = pipe.backbone.encode_prompt("")
    text = conditioning.texts[0, :, 0]
    side = pixels // pipe.backbone.vae_factor
    added = pipe.backbone.added_conditioning(conditioning, slice(0, 1), 1, (side, side))
    pipe.unet(torch.zeros(1, 4, side, side, device=pipe.device), 1, encoder_hidden_states=text, **added)
    for hook in hooks:
        hook.remove()
    guidance, blocks = 2, pipe.defaults.injection.blocks or ()
    parts = [part for update in entry.concept.unet.values() for part in update if isinstance(part, torch.Tensor)]
    return {
        "weights": 4 * sum(part.numel() for part in parts),
        "text": 4 * guidance * len(cross_attention_names(pipe.unet)) * text.numel(),
        "features": 4 * guidance * sum(shapes[name].numel() for name in layers if block_of(name) in blocks),
        "mask attention": 4 * shapes[pipe.backbone.mask_layer][1] ** 2,
    }
