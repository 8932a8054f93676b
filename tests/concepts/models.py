"""Tiny models of both families, and adapters put into them by PEFT itself."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from concept_conductor import ConceptConductorPipeline
from concept_conductor.concepts.concept import Concept
from concept_conductor.denoiser.lora import pathwise
from concept_conductor.denoiser.paths import AllRows

WIDTHS = {"sd15": 768, "sd21": 1024, "sdxl": 2048}
TOLERANCE = 5e-5
FAMILIES = ("sd15", "sdxl")


def tiny_unet(family: str) -> UNet2DConditionModel:
    """A U-Net with the family's layer names and text width."""
    own = {
        "sd15": {"down": ("CrossAttnDownBlock2D", "DownBlock2D"), "up": ("UpBlock2D", "CrossAttnUpBlock2D")},
        "sdxl": {
            "down": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        },
    }[family]
    sdxl = {
        "transformer_layers_per_block": (1, 1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 16,
    }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16)[: len(own["down"])],
        down_block_types=own["down"],
        up_block_types=own["up"],
        layers_per_block=2,
        norm_num_groups=4,
        cross_attention_dim=WIDTHS[family],
        attention_head_dim=2,
        **(sdxl if family == "sdxl" else {}),
    ).requires_grad_(False)


def tiny_text_encoder(second: bool = False) -> CLIPTextModel | CLIPTextModelWithProjection:
    """A CLIP text encoder, with its projection if it is SDXL's second."""
    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=16,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if second else CLIPTextModel)(config).requires_grad_(False).eval()


class Models(NamedTuple):
    """A family's networks, by diffusers' names of them."""

    family: str
    networks: dict[str, nn.Module]

    @classmethod
    def tiny(cls, family: str) -> Models:
        networks = {"unet": tiny_unet(family), "text_encoder": tiny_text_encoder()}
        if family == "sdxl":
            networks["text_encoder_2"] = tiny_text_encoder(second=True)
        return cls(family, networks)

    def outputs(self) -> list[Tensor]:
        """What each network gives for fixed inputs."""
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, 48, (2, 7), generator=generator)
        added = {"text_embeds": torch.randn(2, 16, generator=generator), "time_ids": torch.ones(2, 6)}
        latents = torch.randn(2, 4, 8, 8, generator=generator)
        text = torch.randn(2, 5, WIDTHS[self.family], generator=generator)
        extra = {"added_cond_kwargs": added} if self.family == "sdxl" else {}
        results = []
        with torch.no_grad():
            for name, network in self.networks.items():
                inputs = (latents, 5, text) if name == "unet" else (ids,)
                results.append(network(*inputs, return_dict=False, **(extra if name == "unet" else {}))[0])
        return results

    def with_concept(self, concept: Concept) -> list[Tensor]:
        """The same with a concept's updates put in path-wise, at full weight."""
        updates = {"unet": concept.unet, **dict(zip(("text_encoder", "text_encoder_2"), concept.text_encoders))}
        with ExitStack() as stack:
            for name, network in self.networks.items():
                stack.enter_context(pathwise(network, [updates.get(name, {})], AllRows()))
            return self.outputs()

    def layers(self, network: str, kinds: str) -> list[str]:
        """Names of the layers that ``kinds`` ("attention", "everything") adapts."""
        return [
            name
            for name, module in self.networks[network].named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
            and (kinds == "everything" or ".attn" in name or ".self_attn." in name)
        ]


class Trained(NamedTuple):
    """Adapters as PEFT trains them, what they give, and what a file of them holds."""

    models: Models
    adapters: dict[str, PeftModel]
    outputs: list[Tensor]

    @property
    def states(self) -> dict[str, dict[str, Tensor]]:
        """For each network, PEFT's state dict without its prefix."""
        return {
            name: {
                key.removeprefix("base_model.model."): value.clone()
                for key, value in get_peft_model_state_dict(adapter).items()
            }
            for name, adapter in self.adapters.items()
        }

    @property
    def packed(self) -> dict[str, Tensor]:
        """All in one, keys starting with the network's name."""
        return {f"{name}.{key}": value for name, state in self.states.items() for key, value in state.items()}


def trained(family: str, kinds: str = "attention", **settings: object) -> Trained:
    """Random LoRA adapters put into fresh tiny models by PEFT; the models are given back without them."""
    options = {"r": 2, "lora_alpha": 2, "init_lora_weights": False, **settings}
    return adapted(family, kinds, lambda layers: LoraConfig(target_modules=layers, **options))


def adapted(family: str, kinds: str, config: Callable[[list[str]], PeftConfig]) -> Trained:
    """The same of any kind of adapter; ``config`` makes its settings for layers of these names."""
    torch.manual_seed(0)
    models = Models.tiny(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of patterns for another network's layers, and of transformers' to PEFT
        adapters = {
            name: get_peft_model(network, config(models.layers(name, kinds)))
            for name, network in models.networks.items()
        }
    outputs = models.outputs()
    result = Trained(Models(family, {}), adapters, outputs)
    result.models.networks.update({name: adapter.get_base_model() for name, adapter in adapters.items()})
    return result


def assert_same_outputs(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours - theirs).norm() <= TOLERANCE * theirs.norm()


def clean(result: Trained) -> Models:
    """The same models as before PEFT touched them."""
    return Models(result.models.family, {name: adapter.unload() for name, adapter in result.adapters.items()})


def ranks(concept: Concept) -> Mapping[str, int]:
    return {name: update.rank for name, update in concept.unet.items()}


def packed_lora(pipe: ConceptConductorPipeline, networks: Sequence[str], ends: str = "") -> dict[str, Tensor]:
    """A LoRA with random weights as PEFT makes it, on every layer whose name has one of ``ends`` (a pattern)."""
    packed: dict[str, Tensor] = {}
    for name in networks:
        network = getattr(pipe, name)
        layers = [
            layer
            for layer, module in network.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and re.search(ends, layer)
        ]
        config = LoraConfig(r=2, lora_alpha=1, target_modules=layers, init_lora_weights=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of transformers to PEFT
            adapted = get_peft_model(copy.deepcopy(network), config)
        state = get_peft_model_state_dict(adapted)
        packed |= {f"{name}.{key.removeprefix('base_model.model.')}": value * 0.3 for key, value in state.items()}
    return packed


def check(path: Path, result: Trained) -> None:
    """The file's concept gives what the trained adapters gave, and is told as its family's."""
    models = clean(result)
    before = models.outputs()
    concept = Concept.load(path)
    assert_same_outputs(models.with_concept(concept), result.outputs)
    assert concept.family == result.models.family
    assert len(concept.tokens) == len(concept.text_encoders) == len(models.networks) - 1
    assert_same_outputs(models.outputs(), before)


def save_diffusers(folder: Path, result: Trained, **more: Any) -> Path:
    """What a pipeline's ``save_lora_weights`` writes."""
    pipeline = StableDiffusionXLPipeline if result.models.family == "sdxl" else StableDiffusionPipeline
    layers = {f"{name}_lora_layers": state for name, state in result.states.items()}
    pipeline.save_lora_weights(folder, **layers, **more)
    return folder / "pytorch_lora_weights.safetensors"
