"""The naive way: all low-rank weights merged into one model, all placeholders in one prompt, no layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import LowRank, Update
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.errors import ConductorError
from concept_conductor.method.sampling import sample_alone
from concept_conductor.pipeline.pipeline import ConceptConductorPipeline


def merged(concepts: Sequence[Concept]) -> Concept:
    """One concept with the placeholders and the summed low-rank updates of all ``concepts``.

    Raises:
        ConductorError: a concept is not plain low rank, or two share a placeholder.
    """
    names = [name for concept in concepts for name in concept.placeholders]
    if shared := {name for name in names if names.count(name) > 1}:
        raise ConductorError(f"merged into one model, concepts need names of their own, but two have {min(shared)}")
    tokens = [
        {name: vectors for concept in concepts for name, vectors in concept.tokens[index].items()}
        for index in range(len(concepts[0].tokens))
    ]
    encoders = [
        _total([concept.text_encoders[index] for concept in concepts])
        for index in range(len(concepts[0].text_encoders))
    ]
    return Concept("merged", tuple(tokens), tuple(encoders), _total([concept.unet for concept in concepts]))


def joint_prompt(prompt: str, concepts: Sequence[ConceptPrompt]) -> str:
    """The base prompt with each concept's placeholders in the place of its own words, in order.

    "a mug and a mug" with two mugs that replace "mug" becomes "a <mug_1> and a <mug_2>".

    Raises:
        ConductorError: a concept does not say what it replaces, or its words do not stand there often enough.
    """
    done, rest = "", prompt
    for index, entry in enumerate(concepts):
        if entry.replaces is None:
            raise ConductorError(
                f"the concept '{entry.concept.name}' has a prompt of its own; merged models need 'replaces', the words "
                "of the base prompt that it stands for"
            )
        words = [entry.replaces] if isinstance(entry.replaces, str) else list(entry.replaces)
        word = words[index] if len(words) == len(concepts) else words[0]
        found = re.search(rf"\b{re.escape(word)}\b", rest, re.IGNORECASE)
        if found is None:
            raise ConductorError(
                f"after {done!r} the prompt {prompt!r} has no '{word}' left for the concept '{entry.concept.name}'; "
                "expected its words once for each concept, in the concepts' order"
            )
        done += rest[: found.start()] + " ".join(entry.concept.placeholders)
        rest = rest[found.end() :]
    return done + rest


@torch.no_grad()
def sample_merged(
    pipe: ConceptConductorPipeline,
    prompt: str,
    concepts: Sequence[ConceptPrompt],
    latents: Tensor,
    steps: int,
    guidance_scale: float,
    negative_prompt: str | None = None,
) -> Tensor:
    """Images by the one model that every concept, at its own weight, is merged into.

    Args:
        latents: the initial noise, ``(images, 4, h, w)``.

    Returns:
        Images ``(images, 3, H, W)`` in 0..1.
    """
    backbone = pipe.backbone
    weighted = [
        Concept(
            entry.concept.name,
            entry.concept.tokens,
            tuple(ScaledUpdates(encoder, entry.weight) for encoder in entry.concept.text_encoders),
            ScaledUpdates(entry.concept.unet, entry.weight),
        )
        for entry in concepts
    ]
    whole = merged(weighted)
    zeros = negative_prompt is None and backbone.force_zeros
    prompts = [joint_prompt(prompt, concepts), *([] if zeros else [negative_prompt or ""])]
    texts = backbone.encode_concept_prompts(whole, 1.0, prompts)
    texts += [text.zeros() for text in texts] if zeros else []
    return sample_alone(backbone, Conditioning.stack([texts]), whole.unet, latents, steps, guidance_scale)


def _total(layers: Sequence[Mapping[str, Update]]) -> dict[str, Update]:
    total: dict[str, Update] = {}
    for name in dict.fromkeys(name for updates in layers for name in updates):
        parts = [updates[name] for updates in layers if name in updates]
        low = [part for part in parts if isinstance(part, LowRank)]
        if len(low) < len(parts):
            raise ConductorError(f"the layer '{name}' has whole weights; only low-rank concepts can be merged")
        total[name] = LowRank(torch.cat([part.down for part in low]), torch.cat([part.up for part in low], 1))
    return total
