"""What is trained, for a CPU in hours and for a CUDA card in minutes."""

from dataclasses import dataclass, field
from typing import Any

from concept_conductor.mini.designs import ICONS
from concept_conductor.mini.trainer import Settings
from concept_conductor.mini.world import BACKDROPS, World


@dataclass(frozen=True)
class Preset:
    """One version of the model."""

    classes: tuple[str, ...]
    backdrops: tuple[str, ...]
    size: int
    """Side of the image, pixels; latents have a quarter of it."""
    odds: tuple[float, ...]
    """Of scenes with one, two, three objects."""
    vae_channels: tuple[int, ...]
    unet_channels: tuple[int, ...]
    unet_heads: tuple[int, ...]
    text_layers: int
    text_width: int
    bank: int
    """Scenes encoded once, before the U-Net's training."""
    vae_batch: int
    unet_batch: int
    judge_batch: int
    """Per process."""
    processes: int
    device: str
    vae: Settings
    unet: Settings
    judge: Settings
    conductor: dict[str, Any] = field(default_factory=dict)
    """The model folder's conductor.json."""

    def world(self, held_out: bool | None = False) -> World:
        """The world of this version; the base model and its text encoder see it without the held-out designs."""
        return World(self.classes, self.backdrops, self.size, held_out, self.odds, self.device)


CPU = Preset(
    classes=("dog", "cat", "robot", "backpack", "mug", "car"),
    backdrops=("beach", "snow", "grass", "night"),
    size=64,
    odds=(0.35, 0.57, 0.08),
    vae_channels=(32, 64, 96),
    unet_channels=(64, 128, 128, 128),
    unet_heads=(2, 4, 4, 4),
    text_layers=4,
    text_width=128,
    bank=40_000,
    vae_batch=4,
    unet_batch=24,
    judge_batch=16,
    processes=2,
    device="cpu",
    vae=Settings(minutes=7, muon=3e-3, adam=1.5e-3, average=0.998),
    unet=Settings(minutes=132, muon=2e-3, adam=1e-3, decay=0.5, average=0.997, checkpoint_minutes=4),
    judge=Settings(minutes=10, muon=3e-3, adam=1.5e-3, average=0.998),
    # With 16x16 latents the layout layer lies one resolution higher than SD1.5's; the mask layer is SD1.5's own. That
    # was measured: clusters of each decoder self-attention layer at steps 13 to 20 of 50 against the judge's masks of
    # the finished image, best IoU, 32 objects: up_blocks.2: 0.41, 0.50, 0.75; up_blocks.3: 0.33, 0.46, 0.41.
    # The step size was chosen by looking at 12 images of 6 layouts, base path only, 50 steps, guidance 4. IoU of the
    # judge's masks with the layout's, and images with both classes: 0: 0.46, 12; 30: 0.68, 12; 100: 0.71, 11;
    # 300: 0.76, 12; 1000: 0.49, 7 (noise); 3000: 0.00, 0. With concepts their own shapes suffer first: 10, not 30.
    # In so small a U-Net the encoder's attention tells one design from another too. Twenty images (ten pairs, two
    # scenes, one seed, 50 steps), both concepts right and placed, and concepts omitted, by the blocks that are fused:
    # up: 9, 7 of 40; mid and up: 9, 7; down, mid and up: 14, 5.
    # An object has six or seven latents a side, so that its outline is a guess and tight masks cut ears off.
    # Forty images (ten pairs, two layouts, seeds 10 and 11), both concepts right and placed, concepts omitted of 80,
    # and IoU with the layout's objects, injected in the masks: 24, 9, 0.59; a latent around them: 36, 3, 0.59; two: 35,
    # 4, 0.58. Growing the layout's masks alone, by a tenth of the image, gave 32, 5, 0.56.
    # The mask layer has 8x8 tokens, two latents a side, so that refinement blunted exact masks: of the same forty
    # images 36 were right with it and 39 without, and of eighty at seeds 0 to 3, 65 and 78. Clusters that overlap a
    # mask by less than half count as wrong (37, 1 omitted), and outlines are kept where tokens agree: 39, none. Layers
    # with 16x16 tokens have no objects for clusters (32, 7).
    # Guidance overshoots contrast until colours are no design's: of 16 images of dog-noto alone 11 were recognised at
    # 2.5, all at 1.5; with the shipped concepts 16 of the twenty pairs at seed 5.
    conductor={
        "layout_layer": "up_blocks.2.attentions.0.transformer_blocks.0.attn1",
        "mask_layer": "up_blocks.2.attentions.2.transformer_blocks.0.attn1",
        "alignment": {"step_size": 10.0, "concept_weight": 1.0, "end": 0.3},
        "injection": {"blocks": ["down", "mid", "up"], "margin": 1 / 16},
        "refinement": {"start": 0.25, "end": 0.4, "every": 5, "overlap_threshold": 0.5, "keep_outline": True},
        "guidance_scale": 1.5,
        "training": {"norm_threshold": 0.7},
    },
)

CUDA = Preset(
    classes=tuple(ICONS),
    backdrops=tuple(BACKDROPS),
    size=128,
    odds=(0.3, 0.5, 0.2),
    vae_channels=(64, 128, 128),
    unet_channels=(64, 128, 160, 160),
    unet_heads=(2, 4, 5, 5),
    text_layers=4,
    text_width=128,
    bank=200_000,
    vae_batch=64,
    unet_batch=256,
    judge_batch=128,
    processes=1,
    device="cuda",
    vae=Settings(minutes=7, muon=3e-3, adam=1.5e-3),
    unet=Settings(minutes=8, muon=2e-3, adam=1e-3),
    judge=Settings(minutes=6, muon=3e-3, adam=1.5e-3),
    conductor={
        "layout_layer": "up_blocks.1.attentions.0.transformer_blocks.0.attn1",
        "mask_layer": "up_blocks.2.attentions.2.transformer_blocks.0.attn1",
        "injection": {**CPU.conductor["injection"], "margin": 1 / 32},
        **{key: CPU.conductor[key] for key in ("alignment", "refinement", "guidance_scale", "training")},
    },
)

PRESETS = {"cpu": CPU, "cuda": CUDA}
