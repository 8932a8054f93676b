"""The losses of one training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from concept_conductor.backbones.conditioning import Conditioning, tokenize
from concept_conductor.denoiser.checkpointing import checkpointed
from concept_conductor.denoiser.paths import Forward
from concept_conductor.training.attention import AttentionMaps, TrainingPaths, layerwise_texts
from concept_conductor.training.batches import Batches
from concept_conductor.training.config import Precision
from concept_conductor.training.losses import attention_loss, masked_loss, target
from concept_conductor.training.parameters import TrainableConcept


class Objective:
    """What is minimised: masked denoising loss and attention loss of a concept in the making.

    Args:
        parameters: the concept; it must be inserted while losses are computed.
        batches: where the samples come from.
    """

    def __init__(self, parameters: TrainableConcept, batches: Batches) -> None:
        self.parameters = parameters
        self.batches = batches
        self.backbone, self.config, self.plan = batches.backbone, batches.config, batches.plan

    @contextmanager
    def prepared(self) -> Iterator[TrainingPaths]:
        """Inside this context the model has the concept in it and reads a text for each sample and layer."""
        with ExitStack() as stack:
            stack.enter_context(self.parameters.inserted())
            paths = stack.enter_context(layerwise_texts(self.backbone.unet))
            if self.plan.gradient_checkpointing:
                stack.enter_context(checkpointed(self.backbone.unet, paths))
                for text_encoder in self.backbone.text_encoders:
                    stack.enter_context(checkpointed_encoder(text_encoder.model))
            yield paths

    def losses(self, step: int, paths: TrainingPaths) -> tuple[Tensor, Tensor]:
        """Compute masked denoising loss and attention loss of a step, counted from 0.

        Each step draws from a stream of its own, so that a resumed training sees what an unbroken one does.
        """
        config, backbone = self.config, self.backbone
        random = Random(f"{config.seed}/{step}")
        generator = torch.Generator().manual_seed(random.getrandbits(63))
        batch = self.batches.draw(step, random)
        latents = batch.latents
        noise = torch.randn(latents.shape, generator=generator)
        noise = noise + config.noise_offset * torch.randn(*latents.shape[:2], 1, 1, generator=generator)
        t = torch.randint(backbone.scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        noise, t = noise.to(latents), t.to(latents.device)
        noisy = backbone.scheduler.add_noise(latents, noise, t)
        goal = target(backbone.scheduler, latents, noise, t)

        with self._autocast():
            text, positions = self.texts(batch.prompts)
            size = (noisy.shape[-2], noisy.shape[-1])
            regularised = config.regularisation.weight > 0 and bool((batch.mask == 0).any())
            paths.maps = AttentionMaps(positions, size) if regularised else None
            forward = Forward(slice(0, 1), text.texts, images=1)
            added = backbone.added_conditioning(text, forward.present, forward.images, size)
            with paths.running(forward):
                prediction = backbone.unet(
                    noisy, t, encoder_hidden_states=forward.rows_of_text(0), return_dict=False, **added
                )[0]
        small = F.interpolate(batch.mask, size, mode="area").clamp(min=config.background)
        loss = masked_loss(prediction, goal, small)
        if paths.maps is None:
            return loss, loss.new_zeros(())
        return loss, attention_loss(paths.maps.by_resolution, batch.mask, config.regularisation.full_identity)

    def texts(self, prompts: list[str]) -> tuple[Conditioning, Tensor]:
        """Encode the prompts with gradients to all that is trained.

        Returns:
            Conditioning of one path whose guidance halves are the samples, ``(1, B, layers, tokens, dim)``, and the
            placeholders' positions ``(B, placeholders)``.
        """
        backbone, names = self.backbone, self.config.placeholders
        read = [backbone.encode([prompt] * len(backbone.text_encoders), self.parameters.tokens) for prompt in prompts]
        positions = []
        for prompt in prompts:
            text = tokenize(backbone.text_encoders[0].tokenizer, prompt, names)
            place = {name: position for position, name in text.placeholders.items()}
            positions.append([place[name] for name in names])
        return Conditioning.stack([read]), torch.tensor(positions, device=backbone.device)

    def _autocast(self) -> AbstractContextManager[None]:
        if self.plan.precision is Precision.fp32:
            return nullcontext()
        context: AbstractContextManager[None] = torch.autocast(self.backbone.device.type, self.plan.precision.dtype)
        return context


@contextmanager
def checkpointed_encoder(encoder: nn.Module) -> Iterator[None]:
    """Inside this context a text encoder keeps only what lies between its layers; gradients compute the rest again."""

    def run(layer: nn.Module, *args: Tensor) -> Tensor:
        return checkpoint(layer, *args, use_reentrant=False, preserve_rng_state=False)

    layers = [module for module in encoder.modules() if hasattr(type(module), "gradient_checkpointing")]
    try:
        for layer in layers:
            # transformers' layers look at these three; `training` is set of the layer alone: nothing is dropped out
            vars(layer).update(gradient_checkpointing=True, _gradient_checkpointing_func=run, training=True)
        yield
    finally:
        for layer in layers:
            layer.training = False
            del vars(layer)["gradient_checkpointing"], vars(layer)["_gradient_checkpointing_func"]
