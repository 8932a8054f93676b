"""The U-Net and its text encoder, trained together on encoded scenes; SD1.5's blocks, smaller."""

import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from concept_conductor.io.files import atomic_write
from concept_conductor.mini.presets import Preset
from concept_conductor.mini.tokenizer import LENGTH
from concept_conductor.mini.trainer import Replica, Settings, Trainer
from concept_conductor.mini.world import World

EMPTY_CAPTIONS = 0.1
"""Share of captions dropped, for guidance."""


class Denoiser(nn.Module):
    """Predicts the noise in latents `(B, 4, h, w)` at timesteps `(B,)` from token ids `(B, LENGTH)`."""

    def __init__(self, preset: Preset, tokenizer: CLIPTokenizer):
        super().__init__()
        self.unet = UNet2DConditionModel(
            sample_size=preset.size // 4,
            block_out_channels=preset.unet_channels,
            attention_head_dim=preset.unet_heads,  # the number of heads, for this class
            cross_attention_dim=preset.text_width,
            norm_num_groups=16,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        ).to(memory_format=torch.channels_last)
        self.text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=preset.text_width,
                intermediate_size=4 * preset.text_width,
                projection_dim=preset.text_width,
                num_hidden_layers=preset.text_layers,
                num_attention_heads=4,
                max_position_embeddings=LENGTH,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Noise `(B, 4, h, w)`."""
        noise: Tensor = self.unet(latents, timesteps, self.text_encoder(tokens).last_hidden_state).sample
        return noise


def scheduler() -> DDIMScheduler:
    """SD1.5's."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def encode(text: list[str], tokenizer: CLIPTokenizer) -> Tensor:
    """Token ids `(len(text), LENGTH)`."""
    return tokenizer(text, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderKL, world: World, tokenizer: CLIPTokenizer, count: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Latents `(count, 4, h, w)` in half precision and token ids `(count, LENGTH)` of random scenes."""
    generator = torch.Generator().manual_seed(seed)
    latents, tokens = [], []
    for start in range(0, count, 64):
        scenes = world.sample(min(64, count - start), generator)
        with torch.autocast(world.device.type, torch.bfloat16):
            latents.append(vae.encode(scenes.images).latent_dist.mean.half().cpu())
        tokens.append(encode(world.captions(scenes, generator), tokenizer))
    return torch.cat(latents), torch.cat(tokens)


class NoiseLoss:
    """Error of the predicted noise, weighted by min-SNR-5 (Hang et al., 2023)."""

    def __init__(self, latents: Tensor, tokens: Tensor, empty: Tensor, device: torch.device):
        alphas = scheduler().alphas_cumprod
        self.signal, self.noise = alphas.sqrt().to(device), (1 - alphas).sqrt().to(device)
        self.weight = (5 * (1 - alphas) / alphas).clamp(max=1).to(device)
        self.latents, self.tokens, self.empty, self.device = latents, tokens, empty, device

    def __call__(self, model: Denoiser, batch: int, generator: torch.Generator) -> Tensor:
        """Mean over `batch` scenes, one in each of as many equal parts of 0..999 of timesteps."""
        rows = torch.randint(len(self.latents), (batch,), generator=generator)
        tokens = self.tokens[rows]
        tokens = torch.where(torch.rand(batch, 1, generator=generator) < EMPTY_CAPTIONS, self.empty, tokens)
        parts = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        t = (parts * len(self.weight)).long().to(self.device)
        latents = self.latents[rows].float()
        noise = torch.randn(latents.shape, generator=generator).to(self.device)
        noisy = self.signal[t, None, None, None] * latents.to(self.device) + self.noise[t, None, None, None] * noise
        with torch.autocast(self.device.type, torch.bfloat16):
            predicted = model(noisy.contiguous(memory_format=torch.channels_last), t, tokens.to(self.device))
        return ((predicted.float() - noise).square().mean((1, 2, 3)) * self.weight[t]).mean()


def load_or_encode(
    state: Path, vae: AutoencoderKL, world: World, tokenizer: CLIPTokenizer, count: int, replica: Replica
) -> tuple[Tensor, Tensor]:
    """The encoded scenes kept in folder `state`; each replica makes its part of them where they are missing."""
    files = [state / f"scenes-{rank}-of-{replica.count}.pt" for rank in range(replica.count)]
    own = files[replica.rank]
    if not own.exists():
        part = encode_scenes(vae, world, tokenizer, count // replica.count, seed=1000 + replica.rank)
        with atomic_write(own) as file:
            torch.save(part, file)
    while not all(file.exists() for file in files):
        time.sleep(0.5)
    parts = [torch.load(file, weights_only=True) for file in files]
    return torch.cat([latents for latents, _ in parts]), torch.cat([tokens for _, tokens in parts])


def train(
    preset: Preset,
    settings: Settings,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    state: Path,
    out: Path,
    replica: Replica,
) -> None:
    """Train, keeping state and encoded scenes in the folder `state`.

    The averaged model goes to the folder `out` at every checkpoint.
    """
    torch.manual_seed(settings.seed)
    device = torch.device(preset.device)
    world, vae = preset.world(), vae.to(device)
    scenes = load_or_encode(state, vae, world, tokenizer, preset.bank, replica)
    fresh = encode_scenes(vae, world, tokenizer, 192, seed=1)
    empty = encode([""], tokenizer)
    error, fresh_error = NoiseLoss(*scenes, empty, device), NoiseLoss(*fresh, empty, device)
    model = Denoiser(preset, tokenizer).to(device)
    averaged = copy.deepcopy(model)
    if device.type == "cpu":  # where the fused kernel's backward is several times slower
        model.unet.set_attn_processor(AttnProcessor())
        model.text_encoder.set_attn_implementation("eager")

    def report(trainer: Trainer[Denoiser]) -> None:
        with torch.no_grad():
            loss = fresh_error(trainer.averaged, 192, torch.Generator().manual_seed(2)).item()
        print(f"unet {trainer}, averaged on fresh scenes {loss:.4f}", flush=True)
        export(trainer.averaged, vae, tokenizer, preset.conductor, out)

    edges = (model.unet.conv_in, model.unet.conv_out, model.text_encoder.get_input_embeddings())
    trainer = Trainer(
        model,
        averaged,
        lambda model, generator: error(model, preset.unet_batch, generator),
        settings,
        state / "unet.pt",
        replica,
        edges,
    )
    trainer.run(report)


def export(
    model: Denoiser, vae: AutoencoderKL, tokenizer: CLIPTokenizer, conductor: dict[str, Any], folder: Path
) -> None:
    """Write a diffusers folder in half precision, with conductor.json.

    The text encoder stays in fp32: transformers would load it in the precision of its file, whatever the others have.
    """
    model = copy.deepcopy(model)
    model.unet.half()
    model.unet.set_attn_processor(AttnProcessor2_0())
    pipe = StableDiffusionPipeline(
        vae=copy.deepcopy(vae).half(),
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, max_shard_size="15MB")
    for file in folder.glob("*/config.json"):  # not where this machine read it from
        config = json.loads(file.read_text())
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n")
    (folder / "conductor.json").write_text(json.dumps(conductor, indent=2) + "\n")
