"""Cross-attention projects a text once in a run, and with every forward where memory is short."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from concept_conductor import ConceptConductorPipeline
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.layers import attention_layers
from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import Fusion
from concept_conductor.method.multipath import multipath
from concept_conductor.settings import Injection
from tests.compare import ROUNDING, relative

STEPS = 3


@pytest.fixture
def text(tiny_pipe: ConceptConductorPipeline) -> Conditioning:
    """Two paths' texts with guidance."""
    encode = tiny_pipe.backbone.encode_prompt
    return Conditioning.stack([[encode("a dog"), encode("")], [encode("a cat"), encode("")]])


def run(pipe: ConceptConductorPipeline, text: Conditioning, paths_per_forward: int | None) -> tuple[Tensor, Counter]:
    """The last prediction of a few steps, and how often each cross-attention layer's keys were projected."""
    calls: Counter[str] = Counter()
    layers = {name: layer for name, layer in attention_layers(pipe.unet).items() if layer.is_cross_attention}
    handles = [
        layer.to_k.register_forward_hook(lambda *_, name=name: calls.update([name])) for name, layer in layers.items()
    ]
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = Masks(torch.ones(1, 1, 16, 16, dtype=torch.bool))
    try:
        with torch.no_grad(), multipath(pipe.backbone, [{}, {}], paths_per_forward) as paths:
            for t in (900, 500, 100)[:STEPS]:
                fusion = Fusion(masks, Injection(blocks=("up",)), record=False)
                for chunk in paths.chunks():
                    noise = paths.predict(latents, torch.tensor(t), text, chunk, fusion)
    finally:
        for handle in handles:
            handle.remove()
    assert set(calls) == set(layers)
    return noise[0], calls


def test_a_text_is_projected_once(tiny_pipe: ConceptConductorPipeline, text: Conditioning) -> None:
    together, once = run(tiny_pipe, text, None)
    in_turn, often = run(tiny_pipe, text, 1)
    assert set(once.values()) == {1}
    assert set(often.values()) == {2 * STEPS}, "kept for each path, the projections would be as large as all at once"
    torch.testing.assert_close(in_turn, together, rtol=1e-4, atol=1e-5)


def test_another_text_is_projected_anew(tiny_pipe: ConceptConductorPipeline, text: Conditioning) -> None:
    other = Conditioning(text.texts.flip(1))
    latents, t = torch.zeros(1, 4, 16, 16), torch.tensor(500)
    with torch.no_grad(), multipath(tiny_pipe.backbone, [{}, {}]) as paths:
        (whole,) = paths.chunks()
        first = paths.predict(latents, t, text, whole, None)
        swapped = paths.predict(latents, t, other, whole, None)
        alone = paths.layout_keys(latents, t, text, whole)
        assert relative(paths.predict(latents, t, text, whole, None), first) < ROUNDING
    assert relative(swapped, first) > 1e-3
    torch.testing.assert_close(swapped.flip(1), first, rtol=1e-4, atol=1e-5)
    assert alone.shape[:2] == (2, 1)


def test_no_graph_is_kept(tiny_pipe: ConceptConductorPipeline, text: Conditioning) -> None:
    """Aligned steps follow one another; what the first remembers must not tie the second to its graph."""
    t = torch.tensor(500)
    gradients = []
    with multipath(tiny_pipe.backbone, [{}, {}]) as paths:
        for _ in range(2):
            latents = torch.zeros(1, 4, 16, 16, requires_grad=True)
            keys = paths.layout_keys(latents, t, text, slice(0, 2))
            gradients.append(torch.autograd.grad(keys.square().sum(), latents)[0])
    assert gradients[0].any() and relative(*gradients) < ROUNDING
