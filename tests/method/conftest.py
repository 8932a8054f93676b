"""Two concepts' paths of the tiny model: texts, weights, latents and masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from concept_conductor import ConceptConductorPipeline, ConceptPrompt
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.denoiser.masks import Masks


@pytest.fixture(scope="module")
def text(tiny_pipe: ConceptConductorPipeline, tiny_concepts: dict[str, ConceptPrompt]) -> Conditioning:
    backbone, entries = tiny_pipe.backbone, [tiny_concepts["chow_dog"], tiny_concepts["siberian_cat"]]
    texts = [[backbone.encode_prompt(prompt) for prompt in ("a dog and a cat", "")]]
    texts += [backbone.encode_concept_prompts(entry.concept, 0.7, [entry.prompt, ""]) for entry in entries]
    return Conditioning.stack(texts)


@pytest.fixture(scope="module")
def updates(tiny_concepts: dict[str, ConceptPrompt]) -> list[Any]:
    return [{}, *(ScaledUpdates(tiny_concepts[name].concept.unet, 0.7) for name in ("chow_dog", "siberian_cat"))]


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def masks() -> Masks:
    grid = torch.zeros(2, 2, 16, 16, dtype=torch.bool)
    grid[:, 0, 2:9, 1:8] = True
    grid[:, 1, 5:14, 6:15] = True  # over a part of the first
    grid[1, 1, :, 12:] = False
    return Masks(grid)
