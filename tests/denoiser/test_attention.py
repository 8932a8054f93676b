"""One attention layer under the processor: its path's text, what it records, and where a forward ends."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor

from concept_conductor.denoiser.attention import LayoutReached, MultipathProcessor, Role, attention_probabilities
from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import AttentionRecord, Forward, Fusion, Paths
from concept_conductor.settings import Injection

PATHS, IMAGES, TOKENS, WORDS, CHANNELS, DIM = 2, 2, 4, 3, 8, 6
ROWS = PATHS * 2 * IMAGES


def layer(cross_attention: bool) -> Attention:
    torch.manual_seed(0)
    context = DIM if cross_attention else None
    return Attention(CHANNELS, cross_attention_dim=context, heads=2, dim_head=4).requires_grad_(False)


def role(**changes: object) -> Role:
    return Role(**{"index": 0, "block": "up", "text": None, "layout": False, "mask": False, "words": False, **changes})


def run(attention: Attention, role: Role, forward: Forward, rows: Tensor) -> Tensor:
    """The layer's output with the processor in place of its own."""
    paths = Paths()
    attention.set_processor(MultipathProcessor(attention.processor, role, paths))
    with paths.running(forward):
        output = attention(rows)
    assert isinstance(output, Tensor)
    return output


@pytest.fixture
def rows() -> Tensor:
    return torch.randn(ROWS, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def forward() -> Forward:
    """Texts of two paths with guidance, for two cross-attention layers."""
    texts = torch.randn(PATHS, 2, 2, WORDS, DIM, generator=torch.Generator().manual_seed(2))
    return Forward(slice(0, PATHS), texts, IMAGES)


def plain_probabilities(attention: Attention, queries: Tensor, context: Tensor) -> Tensor:
    """Softmax of scaled products for one row, mean over the heads."""
    query, key = attention.to_q(queries), attention.to_k(context)
    heads = [(query[:, c] @ key[:, c].T / 4**0.5).softmax(-1) for c in (slice(0, 4), slice(4, 8))]
    return torch.stack(heads).mean(0)


def test_each_row_attends_to_its_paths_text(forward: Forward, rows: Tensor) -> None:
    attention = layer(cross_attention=True)
    expected = torch.stack(
        [attention(row[None], forward.texts[n // 4, n // 2 % 2, 1][None])[0] for n, row in enumerate(rows)]
    )
    torch.testing.assert_close(run(attention, role(text=1), forward, rows), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cross_attention", [False, True])
def test_probabilities_are_those_of_the_conditional_rows(cross_attention: bool, forward: Forward, rows: Tensor) -> None:
    attention = layer(cross_attention)
    context = forward.rows_of_text(0) if cross_attention else rows
    found = attention_probabilities(attention, rows, context, forward)
    assert found.shape == (PATHS, IMAGES, TOKENS, WORDS if cross_attention else TOKENS)
    for path in range(PATHS):
        for image in range(IMAGES):
            row = path * 2 * IMAGES + image  # the unconditional half comes after
            expected = plain_probabilities(attention, rows[row], context[row])
            torch.testing.assert_close(found[path, image], expected, rtol=1e-5, atol=1e-6)


def test_nothing_is_recorded_unless_asked(forward: Forward, rows: Tensor) -> None:
    masks = Masks(torch.ones(IMAGES, 1, 2, 2, dtype=torch.bool))
    alone = run(layer(cross_attention=False), role(mask=True), forward, rows)
    forward.fusion = Fusion(masks, Injection(blocks=("mid",)), record=False)
    run(layer(cross_attention=False), role(mask=True), forward, rows)
    assert forward.fusion.attention == []
    forward.fusion.record, forward.recording = True, AttentionRecord()
    watched = run(layer(cross_attention=False), role(mask=True), forward, rows)
    torch.testing.assert_close(watched, alone)
    expected = attention_probabilities(layer(cross_attention=False), rows, rows, forward)
    for kept in (forward.fusion.attention, forward.recording.self_attention):
        torch.testing.assert_close(kept, [expected])
    run(layer(cross_attention=True), role(text=0, words=True), forward, rows)
    (words,) = forward.recording.cross_attention
    assert words.shape == (PATHS, IMAGES, TOKENS, WORDS)


def test_a_forward_to_the_layout_ends_with_the_layout_layers_keys(forward: Forward, rows: Tensor) -> None:
    attention = layer(cross_attention=False)
    run(attention, role(layout=True), forward, rows)  # others go on
    forward.stop_at_layout = True
    with pytest.raises(LayoutReached) as reached:
        run(layer(cross_attention=False), role(layout=True), forward, rows)
    torch.testing.assert_close(reached.value.keys, attention.to_k(rows))
