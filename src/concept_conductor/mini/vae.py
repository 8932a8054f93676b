"""The autoencoder: a small AutoencoderKL, factor 4, whose latents are whitened channel by channel."""

import copy
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from concept_conductor.mini.presets import Preset
from concept_conductor.mini.trainer import Replica, Settings, Trainer


def build(channels: tuple[int, ...], size: int) -> AutoencoderKL:
    """An untrained autoencoder; each channel count after the first halves the resolution."""
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=size,
        scaling_factor=1.0,
    )
    return vae.to(memory_format=torch.channels_last)


def reconstruction_loss(vae: AutoencoderKL, images: Tensor, generator: torch.Generator) -> Tensor:
    """L1, L2 and L1 of edges, and a little KL."""
    with torch.autocast(images.device.type, torch.bfloat16):
        posterior = vae.encode(images).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(images.device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    error = decoded.float() - images
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return error.abs().mean() + 0.5 * error.square().mean() + 0.5 * edges + 3e-4 * divergence


@torch.no_grad()
def psnr(vae: AutoencoderKL, images: Tensor) -> float:
    """Peak signal-to-noise ratio of `images` (-1..1) encoded and decoded, dB."""
    decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
    return -10 * ((decoded - images) / 2).square().mean().log10().item()


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Tensor) -> None:
    """Give latents of `images` mean 0 and deviation 1 in every channel, folded exactly into the 1x1 convolutions."""
    latents = torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    inward, outward = vae.quant_conv, vae.post_quant_conv
    channels = len(mean)
    inward.weight[:channels] /= deviation[:, None, None, None]
    inward.bias[:channels] = (inward.bias[:channels] - mean) / deviation
    inward.bias[channels:] -= 2 * deviation.log()  # the other half is the log of the variance
    outward.bias += outward.weight[:, :, 0, 0] @ mean
    outward.weight *= deviation[None, :, None, None]


def train(preset: Preset, settings: Settings, state: Path, replica: Replica) -> AutoencoderKL:
    """Train on fresh scenes of all designs, keeping the state in the file `state`; return the whitened average."""
    torch.manual_seed(settings.seed)
    world = preset.world(held_out=None)
    vae = build(preset.vae_channels, world.size).to(world.device)
    vae.set_attn_processor(AttnProcessor())  # on CPUs the fused kernel's backward is several times slower

    def loss(model: AutoencoderKL, generator: torch.Generator) -> Tensor:
        images = world.sample(preset.vae_batch, generator).images.contiguous(memory_format=torch.channels_last)
        return reconstruction_loss(model, images, generator)

    fresh = world.sample(256, torch.Generator().manual_seed(-1)).images

    def report(trainer: Trainer[AutoencoderKL]) -> None:
        print(f"vae {trainer}, {psnr(trainer.averaged, fresh[:64]):.2f} dB", flush=True)

    ends = (vae.encoder, vae.decoder)
    edges = (*(m.conv_in for m in ends), *(m.conv_out for m in ends), vae.quant_conv, vae.post_quant_conv)
    trainer = Trainer(vae, copy.deepcopy(vae), loss, settings, state, replica, edges)
    trainer.run(report)
    whiten(trainer.averaged, fresh)
    return trainer.averaged
