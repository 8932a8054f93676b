"""A dry run: the run's own code on tensors without data, counting what would be alive at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from concept_conductor.backbones.base import TILE, Backbone
from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.concepts.data import LowRank, Update
from concept_conductor.concepts.layer_names import UNET_LINEARS
from concept_conductor.denoiser.layers import attention_layers
from concept_conductor.denoiser.masks import Masks
from concept_conductor.memory.tracker import MemoryTracker
from concept_conductor.method.alignment import align
from concept_conductor.method.injection import inject
from concept_conductor.method.multipath import Multipath, multipath
from concept_conductor.settings import SamplingSettings, step_at

#: What CUDA and its libraries take for themselves, and the share of memory lost between tensors. Rules of thumb.
CUDA_ITSELF = 600 * 2**20
FRAGMENTATION = 0.1

#: Any timestep.
NOW = torch.tensor(500)

TEXTS, REFERENCE, ALIGNMENT, INJECTION, IMAGE = "texts", "reference", "alignment", "injection", "image"


@dataclass(frozen=True)
class MemoryOptions:
    """Settings that trade time for memory.

    Attributes:
        paths_per_forward: see the recipe.
        gradient_checkpointing: of alignment.
        vae_tiling: the VAE works in tiles.
        offload: only the network at work is on the GPU.
    """

    paths_per_forward: int | None = None
    gradient_checkpointing: bool = False
    vae_tiling: bool = False
    offload: bool = False


@dataclass(frozen=True)
class Estimate:
    """An estimate of GPU memory in bytes.

    Attributes:
        weights: of each network.
        phases: of each part of the run: weights present plus tensors alive.
        peak: the most of any part, with what CUDA takes and what gets lost between tensors.
    """

    weights: dict[str, int]
    phases: dict[str, int]
    peak: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak", int(max(self.phases.values()) * (1 + FRAGMENTATION)) + CUDA_ITSELF)


class DryRun:
    """A run on a model without data; other options are estimated without running all of it again.

    Args:
        backbone: the model, usually on the ``meta`` device (:meth:`.MetaModel.backbone`); any other works too.
        settings: filled.
        size: width and height in pixels.
        updates: each concept's U-Net weights.
        images: images at once.
    """

    def __init__(
        self,
        backbone: Backbone,
        settings: SamplingSettings,
        size: tuple[int, int],
        updates: Sequence[Mapping[str, Update]],
        images: int = 1,
    ) -> None:
        self.backbone = backbone
        self.settings = settings
        self.updates: list[Mapping[str, Update]] = [{}, *(on_device(update, backbone.device) for update in updates)]
        factor = backbone.vae_factor
        self.pixels = (1, 3, size[1], size[0])
        self.tokens = int(backbone.text_encoders[0].model.config.max_position_embeddings)
        self.latents = (images, int(backbone.unet.config.in_channels), size[1] // factor, size[0] // factor)
        # each depends on few settings, so that most of a further estimate is known already
        self._texts, self._reference = cache(self._measure_texts), cache(self._measure_reference)
        self._alignment, self._injection = cache(self._measure_alignment), cache(self._measure_injection)
        self._image = cache(self._measure_image)

    def estimate(self, options: MemoryOptions) -> Estimate:
        """What the run needs with these settings."""
        backbone = self.backbone
        texts = {
            f"text encoder {index}": text_encoder.model
            for index, text_encoder in enumerate(backbone.text_encoders, start=1)
        }
        networks: dict[str, nn.Module] = {**texts, "U-Net": backbone.unet, "VAE": backbone.vae}
        weights = {name: bytes_of(network) for name, network in networks.items()}

        def present(*at_work: str) -> int:
            return sum(size for name, size in weights.items() if name in at_work or not options.offload)

        phases = {TEXTS: present(*texts) + self._texts()}
        paths = options.paths_per_forward
        if self.settings.alignment is not None and len(self.updates) > 1:
            phases[REFERENCE] = present("VAE") + self._reference(options.vae_tiling)
            phases[ALIGNMENT] = present("U-Net") + self._alignment(paths, options.gradient_checkpointing)
        phases[INJECTION] = present("U-Net") + self._injection(paths)
        phases[IMAGE] = present("VAE") + self._image(options.vae_tiling)
        return Estimate(weights, phases)

    def _measure_texts(self) -> int:
        rows = self.backbone.text_layers if len(self.updates) > 1 else 1
        ids = torch.zeros(rows, self.tokens, dtype=torch.long, device=self.backbone.device)
        with torch.no_grad():
            return peak_of(lambda: [text_encoder(ids) for text_encoder in self.backbone.text_encoders])

    def _measure_reference(self, tiling: bool) -> int:
        pixels = torch.empty(self._tile(self.pixels, tiling, TILE), device=self.backbone.device)
        return peak_of(lambda: self.backbone.encode_image(pixels)) + self._whole(tiling)

    def _measure_image(self, tiling: bool) -> int:
        tile = TILE // self.backbone.vae_factor
        latents = self._tensor(*self._tile((1, *self.latents[1:]), tiling, tile))  # images are decoded one by one
        return peak_of(lambda: self.backbone.decode_latents(latents)) + self._whole(tiling)

    def _tile(self, shape: tuple[int, ...], tiling: bool, side: int) -> tuple[int, ...]:
        """What the VAE sees at once of an image."""
        return (*shape[:2], *(min(length, side) for length in shape[2:])) if tiling else shape

    def _whole(self, tiling: bool) -> int:
        """The bytes of the image that tiles are put together to: as tiles, rows and whole."""
        return 3 * math.prod(self.pixels) * torch.float32.itemsize if tiling else 0

    def _measure_alignment(self, paths_per_forward: int | None, checkpointing: bool) -> int:
        assert self.settings.alignment is not None
        settings = self.settings.alignment.model_copy(update={"gradient_checkpointing": checkpointing})

        def run() -> None:
            text, latents = self._text(), self._tensor(*self.latents)
            with multipath(self.backbone, self.updates, paths_per_forward) as paths:
                keys = self._layout_keys(paths, text)
                align(paths, latents, NOW, keys[0], text, settings, self._masks(len(latents)))

        return peak_of(run)

    def _measure_injection(self, paths_per_forward: int | None) -> int:
        refine = self.settings.refinement is not None and len(self.updates) > 1

        def run() -> None:
            text, latents = self._text(), self._tensor(*self.latents)
            with torch.no_grad(), multipath(self.backbone, self.updates, paths_per_forward) as paths:
                keys = self._layout_keys(paths, text)
                inject(paths, latents, NOW, self._masks(len(latents)), text, self.settings, refine=refine)
                del keys  # they are there for the whole run

        return peak_of(run)

    @torch.no_grad()
    def _layout_keys(self, paths: Multipath, text: Conditioning) -> Tensor:
        """The reference's layout keys of all aligned timesteps, ``(timesteps, tokens, channels)``."""
        alignment, latents = self.settings.alignment, self._tensor(1, *self.latents[1:])
        one = paths.layout_keys(latents, NOW, text, slice(0, 1))[0, 0]
        end = None if alignment is None else alignment.end
        return one.new_empty(0 if end is None else step_at(end, self.settings.steps) + 1, *one.shape)

    def _masks(self, images: int) -> Masks:
        """Empty masks of all concepts."""
        shape = (images, len(self.updates) - 1, *self.latents[-2:])
        return Masks(torch.zeros(shape, dtype=torch.bool, device=self.backbone.device))

    def _text(self) -> Conditioning:
        """Conditioning of all paths."""
        rows = (len(self.updates), 2 if self.settings.guidance_scale > 1 else 1)
        width = int(self.backbone.unet.config.cross_attention_dim)
        pooled = int(self.backbone.text_encoders[-1].model.config.projection_dim)
        return Conditioning(
            self._tensor(*rows, self.backbone.text_layers, self.tokens, width), self._tensor(*rows, pooled)
        )

    def _tensor(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.backbone.dtype, device=self.backbone.device)


def peak_of(run: Callable[[], object]) -> int:
    """The most bytes alive while ``run`` runs, of those it makes."""
    with MemoryTracker() as tally:
        run()
    return tally.peak


def bytes_of(network: nn.Module) -> int:
    """What a network's weights take."""
    return sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))


def on_device(updates: Mapping[str, Update], device: torch.device) -> dict[str, Update]:
    """The same updates there; on the ``meta`` device nothing but their shapes is left."""

    def moved(update: Update) -> Update:
        if isinstance(update, LowRank):
            return LowRank(update.down.to(device), update.up.to(device))
        return update._replace(weight=update.weight.to(device))

    return {name: moved(update) for name, update in updates.items()}


def ed_lora(backbone: Backbone) -> dict[str, Update]:
    """The U-Net weights of a concept as the family's recipe trains them, without data."""
    rank = backbone.defaults.training.rank.unet
    assert rank is not None
    layers = (layer for layer in attention_layers(backbone.unet).items())
    linears = {f"{name}.{linear}": layer.get_submodule(linear) for name, layer in layers for linear in UNET_LINEARS}
    return {
        name: LowRank(
            torch.empty(rank, int(linear.weight.shape[1]), device="meta"),
            torch.empty(int(linear.weight.shape[0]), rank, device="meta"),
        )
        for name, linear in linears.items()
    }
