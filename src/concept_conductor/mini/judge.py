"""The judge: finds the objects of an image, and says of each its class, its design and its mask, or nothing.

A convolutional network gives, for each pixel, a distribution over the known designs and "none of these", how near it
is to the middle of an object, and where that middle lies; peaks become objects and pixels vote for the nearest. It is
trained on renderings only, never on generated images: noise, blur, colour shifts, a noisy trip through the
autoencoder, objects of unknown classes, blobs and empty backgrounds make it careful.

The two fluent sets look alike and count as one style here.
"""

import copy
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from concept_conductor.io.tensors import mask_iou, to_pixels
from concept_conductor.mini import JUDGE_FILE
from concept_conductor.mini.designs import Atlas, Design
from concept_conductor.mini.presets import Preset
from concept_conductor.mini.trainer import Replica, Settings, Trainer
from concept_conductor.mini.world import Scenes, World

STRIDE = 2
"""Pixels of the image per cell of the network's output."""
SMALLEST = 0.006
"""Least share of the image that an object's mask covers."""
PEAK = 0.3
"""Least height of a peak of the middles' map."""
LEAST_SCORE = 0.5
"""Score of the least sure object that is found, 0..1."""


@dataclass(frozen=True)
class Finding:
    """One object in an image of `size` pixels (the judge's own, whatever the image's)."""

    class_name: str
    design: str
    """`class/style`."""
    mask: np.ndarray
    """bool `(size, size)`: its visible pixels."""
    score: float
    """0..1: how sure the design is, averaged over the mask."""
    box: tuple[float, float, float, float]
    """left, top, right, bottom as fractions of the image's sides."""


def known_designs(designs: tuple[Design, ...], classes: tuple[str, ...]) -> list[str]:
    """Names of the designs that a judge of `classes` tells apart."""
    return list(dict.fromkeys(_judged_name(design) for design in designs if design.class_name in classes))


def _judged_name(design: Design) -> str:
    return design.name.replace("/fluent-flat", "/fluent")


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inward: int, outward: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, inward),
            nn.SiLU(),
            nn.Conv2d(inward, outward, 3, stride, 1),
            nn.GroupNorm(8, outward),
            nn.SiLU(),
            nn.Conv2d(outward, outward, 3, 1, 1),
        )
        self.shortcut = nn.Conv2d(inward, outward, stride, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)


class Network(nn.Module):
    """`(B, 3, size, size)` in -1..1 -> `(B, designs + 4, size / 2, size / 2)`: logits of the designs and of none,
    logit of the middle, offset to it (x, y, as fractions of the side)."""

    def __init__(self, designs: int, channels: tuple[int, int, int] = (48, 96, 160)):
        super().__init__()
        high, middle, low = channels
        self.stem = nn.Conv2d(3, high, 4, 2, 1)
        self.high = nn.Sequential(Block(high, high), Block(high, high))
        self.middle = nn.Sequential(Block(high, middle, 2), Block(middle, middle))
        self.low = nn.Sequential(Block(middle, low, 2), Block(low, low), Block(low, low))
        self.rise_middle = Block(low + middle, middle)
        self.rise_high = Block(middle + high, middle)
        self.head = nn.Conv2d(middle, designs + 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        high = self.high(self.stem(images))
        middle = self.middle(high)
        low = self.low(middle)
        middle = self.rise_middle(torch.cat([F.interpolate(low, scale_factor=2.0), middle], 1))
        high = self.rise_high(torch.cat([F.interpolate(middle, scale_factor=2.0), high], 1))
        return self.head(high)


class Judge:
    """Finds objects; `Judge.load()` gives the one that is shipped."""

    def __init__(self, network: Network, designs: list[str], size: int):
        self.network, self.designs, self.size = network.eval().requires_grad_(False), designs, size

    @staticmethod
    @cache
    def load(file: Path = JUDGE_FILE) -> "Judge":
        """Read a judge written by `save`."""
        with safe_open(file, "pt") as tensors:
            metadata = tensors.metadata()
            weights = {name: tensors.get_tensor(name).float() for name in tensors.keys()}  # noqa: SIM118 - no dict
        designs = json.loads(metadata["designs"])
        network = Network(len(designs))
        network.load_state_dict(weights)
        return Judge(network, designs, int(metadata["size"]))

    def save(self, file: Path) -> None:
        """Write the weights in half precision, with what they know."""
        file.parent.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.half().contiguous().cpu() for name, tensor in self.network.state_dict().items()}
        save_file(weights, file, {"designs": json.dumps(self.designs), "size": str(self.size)})

    def find(self, image: Image.Image) -> list[Finding]:
        """The objects of one image, from left to right; none if there is nothing the judge knows."""
        pixels = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        return self.find_all(to_pixels(pixels)[None])[0]

    @torch.no_grad()
    def find_all(self, images: Tensor) -> list[list[Finding]]:
        """The objects of each of `(B, 3, size, size)` images, -1..1."""
        device = next(self.network.parameters()).device
        raw = self.network(images.to(device)).float().cpu()
        shares = F.interpolate(raw[:, :-3], scale_factor=float(STRIDE), mode="bilinear").softmax(1)
        heat = raw[:, -3].sigmoid()
        offsets = F.interpolate(raw[:, -2:], scale_factor=float(STRIDE), mode="bilinear")
        return [self._assemble(*parts) for parts in zip(shares, heat, offsets)]

    def _assemble(self, shares: Tensor, heat: Tensor, offsets: Tensor) -> list[Finding]:
        """Findings of one image from `(designs + 1, size, size)`, `(size / 2, size / 2)`, `(2, size, size)`."""
        summit = F.max_pool2d(heat[None], 5, 1, 2)[0]
        peaks = torch.nonzero((heat == summit) & (heat > PEAK)).flip(1)  # (peaks, 2) as x, y
        if not len(peaks):
            return []
        peaks = (peaks + 0.5) / len(heat)
        axis = (torch.arange(self.size) + 0.5) / self.size
        votes = offsets + torch.stack([axis.expand(self.size, -1), axis[:, None].expand(-1, self.size)])
        owner = torch.cdist(votes.flatten(1).T, peaks).argmin(1).view(self.size, self.size)
        something = shares[-1] < 0.5
        findings = []
        for k in range(len(peaks)):
            mask = something & (owner == k)
            if mask.sum() < SMALLEST * self.size**2:
                continue
            mean = shares[:, mask].mean(1)
            best = int(mean.argmax())
            if best == len(self.designs) or mean[best] < LEAST_SCORE:
                continue
            rows, columns = torch.nonzero(mask.any(1))[:, 0].tolist(), torch.nonzero(mask.any(0))[:, 0].tolist()
            left, top, right, bottom = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            findings.append(
                Finding(
                    class_name=self.designs[best].split("/")[0],
                    design=self.designs[best],
                    mask=mask.numpy(),
                    score=float(mean[best]),
                    box=(left / self.size, top / self.size, right / self.size, bottom / self.size),
                )
            )
        return sorted(findings, key=lambda finding: finding.box[0] + finding.box[2])


def targets(scenes: Scenes, label: Tensor, unknown: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the network should say of `scenes`, on its own grid of g x g cells.

    `label` maps the atlas's cells to designs, unknown ones to `unknown`. Returns the design of each cell `(B, g, g)`,
    the middles' map `(B, g, g)` 0..1, the offsets `(B, 2, g, g)` and which cells have one `(B, g, g)`.
    """
    device = scenes.masks.device
    names = torch.where(scenes.designs >= 0, label[scenes.designs], unknown).to(device)
    cells = F.avg_pool2d(scenes.masks.float(), STRIDE)
    cells = cells * (names != unknown)[..., None, None]
    share, owner = cells.max(1)
    known = share > 0.5
    design = torch.where(known, names.gather(1, owner.flatten(1)).view_as(owner), unknown)

    side = cells.shape[-1]
    axis = (torch.arange(side, device=device) + 0.5) / side
    total = cells.sum((2, 3)).clamp(min=1e-6)
    x = (cells.sum(2) * axis).sum(-1) / total
    y = (cells.sum(3) * axis).sum(-1) / total
    dx, dy = axis - x[..., None], axis - y[..., None]  # (B, K, g)
    bump = torch.exp(-(dx[:, :, None, :].square() + dy[:, :, :, None].square()) / (2 * 0.03**2))
    heat = (bump * (total > 1)[..., None, None]).amax(1)
    middle = torch.stack([x, y], 1).gather(2, owner.flatten(1)[:, None].expand(-1, 2, -1)).view(-1, 2, side, side)
    grid = torch.stack([axis.expand(side, -1), axis[:, None].expand(-1, side)])
    return design, heat, middle - grid, known


def negatives(scenes: Scenes, generator: torch.Generator) -> Tensor:
    """Images `(B, 3, size, size)` that show nothing: noise, blobs, and the scenes' own backgrounds with blobs."""
    images = scenes.images
    count, _, size, _ = images.shape

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(images.device)

    coarse = F.interpolate(draw(count, 3, 8, 8), size=(size, size), mode="bicubic").clamp(-1, 1)
    noise = (coarse + draw(count, 3, size, size) * draw(count, 1, 1, 1).abs()).clamp(-1, 1)
    field = F.interpolate(draw(count, 1, 5, 5), size=(size, size), mode="bicubic")
    blobs = torch.where(field > 0.5, draw(count, 3, 1, 1).clamp(-1, 1) + 0.2 * coarse, images)
    choice = torch.rand(count, generator=generator).to(images.device)[:, None, None, None]
    return torch.where(choice < 0.25, noise, torch.where(choice < 0.75, blobs.clamp(-1, 1), images))


@torch.no_grad()
def augment(images: Tensor, vae: AutoencoderKL, generator: torch.Generator) -> Tensor:
    """Wear `images` as generation might: a noisy trip through the autoencoder for a quarter, blur, tint, noise."""
    count, _, size, _ = images.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(images.device)

    images = images.clone()
    trip = slice(0, count // 4)
    with torch.autocast(images.device.type, torch.bfloat16):
        latents = vae.encode(images[trip]).latent_dist.mean
        noise = torch.randn(latents.shape, generator=generator).to(images.device)
        latents = latents + 0.3 * draw(len(latents), 1, 1, 1) * noise
        images[trip] = vae.decode(latents).sample.float()
    soft = F.interpolate(F.interpolate(images, scale_factor=0.5, mode="area"), size=(size, size), mode="bilinear")
    images = images.lerp(soft, draw(count, 1, 1, 1) * (draw(count, 1, 1, 1) < 0.6))
    images = images * (0.85 + 0.3 * draw(count, 3, 1, 1)) + 0.2 * (draw(count, 3, 1, 1) - 0.5)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return (images + 0.12 * draw(count, 1, 1, 1).square() * noise).clamp(-1, 1)


class JudgeLoss:
    """Fresh scenes, some with strangers among the objects, some with nothing at all."""

    def __init__(self, world: World, vae: AutoencoderKL, batch: int):
        atlas = Atlas.load()
        self.designs = known_designs(atlas.designs, world.classes)
        self.unknown = len(self.designs)
        self.label = torch.tensor(
            [
                self.designs.index(_judged_name(design)) if design.class_name in world.classes else self.unknown
                for design in atlas.designs
            ]
        )
        self.strangers = torch.nonzero(self.label == self.unknown)[:, 0]
        self.world, self.vae, self.batch = world, vae, batch

    def __call__(self, network: Network, generator: torch.Generator) -> Tensor:
        designs, backdrops = self.world.choose(self.batch, generator)
        if len(self.strangers):
            strange = (torch.rand(designs.shape, generator=generator) < 0.12) & (designs >= 0)
            pick = torch.randint(len(self.strangers), designs.shape, generator=generator)
            designs = torch.where(strange, self.strangers[pick], designs)
        nothing = torch.rand(self.batch, generator=generator) < 0.12
        designs[nothing] = -1
        scenes = self.world.draw(designs, backdrops, generator)
        images = scenes.images
        if nothing.any():
            images = torch.where(nothing.to(images.device)[:, None, None, None], negatives(scenes, generator), images)
        images = augment(images, self.vae, generator)
        design, heat, offsets, known = targets(scenes, self.label, self.unknown)
        with torch.autocast(images.device.type, torch.bfloat16):
            raw = network(images.contiguous(memory_format=torch.channels_last))
        raw = raw.float()
        naming = F.cross_entropy(raw[:, :-3], design)
        # Cells near a middle are few: they count ten times.
        middles = (F.binary_cross_entropy_with_logits(raw[:, -3], heat, reduction="none") * (1 + 9 * heat)).mean()
        pointing = ((raw[:, -2:] - offsets).abs().sum(1) * known).sum() / known.sum().clamp(min=1)
        return naming + middles + 2 * pointing


@dataclass(frozen=True)
class Marks:
    """How good a judge is on renderings, 0..1, over objects (an object not found counts as wrong, mask IoU 0)."""

    class_right: float
    design_right: float
    mask_iou: float
    strays: float
    """Findings that match no object, per image."""
    silent: float
    """Share of images of nothing in which nothing is found."""


@torch.no_grad()
def examine(judge: Judge, world: World, count: int, seed: int) -> Marks:
    """Judge `count` fresh scenes of `world` and as many images of nothing."""
    generator = torch.Generator().manual_seed(seed)
    scenes = world.sample(count, generator)
    atlas = Atlas.load()
    classes, designs, overlaps, strays = [], [], [], 0
    for findings, row, masks in zip(judge.find_all(scenes.images), scenes.designs.tolist(), scenes.masks.cpu()):
        left = list(findings)
        for cell, mask in zip(row, masks.numpy()):
            if cell < 0:
                continue
            ious = [mask_iou(mask, f.mask) for f in left]
            found = left.pop(int(np.argmax(ious))) if ious and max(ious) > 0.2 else None
            overlaps.append(max(ious) if found else 0.0)
            classes.append(found is not None and found.class_name == atlas.designs[cell].class_name)
            designs.append(found is not None and found.design == _judged_name(atlas.designs[cell]))
        strays += len(left)
    empty = world.draw(torch.full_like(scenes.designs, -1), scenes.backdrops, generator)
    silent = [not findings for findings in judge.find_all(negatives(empty, generator))]
    return Marks(
        class_right=float(np.mean(classes)),
        design_right=float(np.mean(designs)),
        mask_iou=float(np.mean(overlaps)),
        strays=strays / count,
        silent=float(np.mean(silent)),
    )


def train(preset: Preset, settings: Settings, vae: AutoencoderKL, state: Path, file: Path, replica: Replica) -> None:
    """Train on fresh scenes of all designs, keeping the state in the file `state`; the judge goes to `file`."""
    torch.manual_seed(settings.seed)
    world = preset.world(held_out=None)
    loss = JudgeLoss(world, vae.to(world.device).eval().requires_grad_(False), preset.judge_batch)
    network = Network(len(loss.designs)).to(world.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it

    def report(trainer: Trainer[Network]) -> None:
        judge = Judge(trainer.averaged, loss.designs, world.size)
        marks = examine(judge, world, 100, seed=3)
        print(f"judge {trainer}, {marks}", flush=True)
        judge.save(file)

    edges = (network.stem, network.head)
    trainer = Trainer(network, copy.deepcopy(network), loss, settings, state, replica, edges)
    trainer.run(report)
