"""SD2.1: a wider text, and models that predict velocity, v = √ᾱ ε - √(1-ᾱ) x₀, instead of noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from concept_conductor import Concept, ConceptConductorPipeline, ConceptPrompt, FamilyError, Inversion, Layout
from concept_conductor.backbones.sd21 import SD21Backbone
from concept_conductor.concepts.data import LowRank
from concept_conductor.denoiser.layers import attention_layers
from concept_conductor.training.trainer import Trainer
from tests.compare import mask_iou, relative
from tests.conftest import tiny_image
from tests.training.conftest import recipe

WIDTH = 1024
CONFIG: dict[str, Any] = {
    "sample_size": 16,
    "block_out_channels": (4, 8, 8, 8),
    "layers_per_block": 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": (1, 2, 4, 4),
    "norm_num_groups": 2,
    "use_linear_projection": True,
}


class VelocityUNet(UNet2DConditionModel):
    """A noise-predicting U-Net whose output is turned into the same model's velocity.

    With x_t = √ᾱ x₀ + √(1-ᾱ) ε the velocity is (ε - √(1-ᾱ) x_t) / √ᾱ.
    """

    alphas: torch.Tensor
    seen: list[int]

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor]:
        noise = super().forward(sample, timestep, *args, **kwargs)[0]
        self.seen.extend(torch.as_tensor(timestep).reshape(-1).tolist())
        alpha = self.alphas[torch.as_tensor(timestep)].reshape(-1, 1, 1, 1)
        return (((noise - (1 - alpha).sqrt() * sample) / alpha.sqrt()).to(sample.dtype),)


@pytest.fixture(scope="module")
def models(tiny_pipe: ConceptConductorPipeline) -> tuple[ConceptConductorPipeline, ConceptConductorPipeline]:
    """A random SD2.1, predicting noise, and the same predicting velocity."""
    torch.manual_seed(0)
    tokenizer = tiny_pipe.tokenizer
    text = CLIPTextConfig(
        vocab_size=514, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    encoder = CLIPTextModel(text).eval()
    plain, velocity = UNet2DConditionModel(**CONFIG), VelocityUNet(**CONFIG)
    velocity.load_state_dict(plain.state_dict())
    config = dict(tiny_pipe.scheduler.config)
    pipes = []
    for unet, kind in ((plain, "epsilon"), (velocity, "v_prediction")):
        scheduler = DDIMScheduler.from_config({**config, "prediction_type": kind})
        pipe = ConceptConductorPipeline(tiny_pipe.vae, encoder, tokenizer, unet.eval(), scheduler)
        pipe.set_progress_bar_config(disable=True)
        pipes.append(pipe)
    velocity.alphas, velocity.seen = scheduler.alphas_cumprod.double(), []
    return pipes[0], pipes[1]


def concept(unet: UNet2DConditionModel, width: int = WIDTH) -> Concept:
    """Random low-rank weights on all queries, and tokens for every layer."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    layers = {f"{name}.to_q": layer.to_q for name, layer in attention_layers(unet).items()}
    updates = {name: LowRank(random(2, q.in_features), random(q.out_features, 2)) for name, q in layers.items()}
    return Concept("thing", ({"<a>": random(16, width)},), unet=updates)


def test_the_family_is_told_from_the_width_of_the_text(
    models: tuple[ConceptConductorPipeline, ConceptConductorPipeline], tiny_pipe: ConceptConductorPipeline
) -> None:
    for pipe in models:
        assert pipe.family is SD21Backbone and pipe.backbone.text_layers == 16
    fitting = concept(models[0].unet)
    models[0].backbone.check(fitting)
    with pytest.raises(FamilyError, match=r"shape \(16, 1024\), but this model needs"):
        tiny_pipe.backbone.check(fitting)


def test_velocity_gives_the_same_image_as_noise(
    models: tuple[ConceptConductorPipeline, ConceptConductorPipeline],
) -> None:
    """Inversion, alignment, injection with guidance, refinement and the scheduler, all through the other target."""
    entry = ConceptPrompt(concept(models[0].unet), "a <a> on the beach")
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {
        "prompt": "a dog on the beach", "negative_prompt": "a cat", "concepts": [entry], "latents": latents,
        "layout": Layout(tiny_image("ref"), "a dog in the street", [tiny_image("mask1")]), "num_inference_steps": 10,
        "inversion": Inversion(steps=50, cache=False), "output_type": "latent",
    }  # fmt: skip
    noise, velocity = (pipe(**call) for pipe in models)
    assert relative(velocity.images, noise.images) < 1e-4
    assert mask_iou(velocity.masks, noise.masks) >= 0.98
    plain = models[1].scheduler
    try:  # and the test would notice a velocity that is taken for noise
        models[1].scheduler = models[0].scheduler
        assert relative(models[1](**call).images, noise.images) > 1e-2
    finally:
        models[1].scheduler = plain


def test_velocity_is_the_target_of_training(
    models: tuple[ConceptConductorPipeline, ConceptConductorPipeline], tmp_path: Path
) -> None:
    """Equal models of both kinds err by v - v̂ = (ε - ε̂) / √ᾱ, so that the losses differ by 1/ᾱ of the timestep."""
    from tests.training.conftest import draw

    photos = draw(tmp_path / "photos", 2)
    changes = {"steps": 4, "batch": 1, "regularisation": {"weight": 0}}
    losses = []
    unet = models[1].unet
    assert isinstance(unet, VelocityUNet)
    for pipe in models:
        trainer = Trainer(pipe.backbone, recipe(photos, **changes))
        unet.seen.clear()
        with torch.no_grad(), trainer.objective.prepared() as paths:
            losses.append([float(trainer.objective.losses(step, paths)[0]) for step in range(4)])
    alphas = unet.alphas[torch.tensor(unet.seen)]
    assert len(alphas) == 4 and len(set(unet.seen)) > 1
    assert losses[1] == pytest.approx([loss / float(alpha) for loss, alpha in zip(losses[0], alphas)], rel=1e-3)
