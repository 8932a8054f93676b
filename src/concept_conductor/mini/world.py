"""The sticker world: one to three objects on a painted background, with exact captions and masks.

Scenes are composed in batches with torch alone, on any device. Positions are fractions of the image's side, x to
the right and y down. Objects are numbered, and named in captions, from left to right. Whole scenes are never
mirrored (that would break left and right), single drawings are.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from concept_conductor.mini.designs import CELL, MARGIN, Atlas


@dataclass(frozen=True)
class Backdrop:
    """A background in three layers: sky, a far ridge, ground; colours are (top, bottom) pairs of RGB hex."""

    phrase: str
    sky: tuple[str, str]
    ridge: tuple[str, str]
    ground: tuple[str, str]
    ridge_height: tuple[float, float] = (0.06, 0.12)
    wave: float = 0.0
    disc: str | None = None
    """Colour of the sun or moon, if there is one."""


BACKDROPS = {
    "beach": Backdrop(
        "on the beach", ("79c0f0", "d6effb"), ("2a9fc8", "58c6d6"), ("f3dfa2", "e4c474"), (0.10, 0.15), 0.0, "ffd84a"
    ),
    "snow": Backdrop(
        "in the snow", ("aebfd6", "dde6f0"), ("8598b4", "a9b8cd"), ("eef3fa", "fbfdff"), (0.1, 0.18), 0.05
    ),
    "grass": Backdrop("on the grass", ("78b9f5", "e0f2ff"), ("9ad468", "82c250"), ("6cbd42", "4a9730"), wave=0.02),
    "night": Backdrop(
        "at night", ("090926", "2f2860"), ("1f2c44", "1a2638"), ("183430", "0e2020"), wave=0.03, disc="f5efc8"
    ),
    "desert": Backdrop("in the desert", ("f2c879", "fbe9c0"), ("c9793f", "b8662f"), ("e2a45a", "cc8540"), wave=0.04),
    "sunset": Backdrop(
        "at sunset", ("5b3a86", "f59a63"), ("7d3f73", "8d4a70"), ("593a5c", "3c2746"), wave=0.03, disc="ffce66"
    ),
    "stage": Backdrop("on a stage", ("7c1420", "a3212f"), ("5a0f18", "5a0f18"), ("b07a48", "8a5a30"), (0.03, 0.05)),
    "room": Backdrop("in a room", ("e6dcc8", "efe7d8"), ("fdfaf4", "f6f0e6"), ("a8744a", "8c5c38"), (0.02, 0.04)),
}

COUNT_WORDS = {2: "two", 3: "three"}
PREFIXES = ("", "a photo of ", "a picture of ")


@dataclass(frozen=True)
class Scenes:
    """A batch of B scenes with room for K objects each, of `size` pixels."""

    images: Tensor
    """`(B, 3, size, size)`, -1..1."""
    masks: Tensor
    """`(B, K, size, size)` bool: the visible pixels of each object, none where there is no object."""
    designs: Tensor
    """`(B, K)` cells of the atlas, left to right; -1 where there is no object."""
    backdrops: Tensor
    """`(B,)` indices into the world's backdrops."""


class World:
    """Draws scenes of some classes, styles and backgrounds.

    `held_out`: False leaves out the designs kept for personalization, True has only those, None has all.
    `odds` are those of one, two, ... objects; ValueError if there can be more objects than classes.
    """

    def __init__(
        self,
        classes: tuple[str, ...],
        backdrops: tuple[str, ...],
        size: int = 64,
        held_out: bool | None = False,
        odds: tuple[float, ...] = (0.35, 0.57, 0.08),
        device: str | torch.device = "cpu",
    ):
        if len(odds) > len(classes):
            raise ValueError(f"scenes of up to {len(odds)} objects need as many classes, but there are {len(classes)}")
        self.atlas, self.classes, self.size, self.odds = Atlas.load(), classes, size, odds
        self.backdrops = tuple(BACKDROPS[name] for name in backdrops)
        self.backdrop_names = backdrops
        self.choices = [
            torch.tensor(
                [
                    i
                    for i, design in enumerate(self.atlas.designs)
                    if design.class_name == name and held_out in (None, design.held_out)
                ]
            )
            for name in classes
        ]
        cells = torch.from_numpy(self.atlas.cells).to(device).permute(0, 3, 1, 2).float() / 255
        # Premultiplied by alpha, so that edges do not darken when the drawing is resampled.
        self.cells = torch.cat([cells[:, :3] * cells[:, 3:], cells[:, 3:]], 1)
        # Half the drawing's height as a fraction of the cell: what lies between its centre and its feet.
        self.half_height = (cells[:, 3].amax(2) > 0.03).sum(1).div(2 * CELL).cpu()
        self.device = torch.device(device)

    def sample(self, count: int, generator: torch.Generator) -> Scenes:
        """Draw `count` random scenes; `generator` lives on the CPU and decides everything."""
        return self.draw(*self.choose(count, generator), generator)

    def choose(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Choose designs `(count, K)` and backdrops `(count,)`: some pairs are of one class, the rest differ."""
        slots = len(self.odds)
        number = torch.multinomial(torch.tensor(self.odds), count, True, generator=generator) + 1
        classes = torch.rand(count, len(self.classes), generator=generator).argsort(1)[:, :slots]
        twins = (torch.rand(count, generator=generator) < 0.2) & (number == 2)
        classes[twins, 1] = classes[twins, 0]
        pick = torch.rand(count, slots, generator=generator)
        designs = torch.full((count, slots), -1)
        for c, choices in enumerate(self.choices):
            here = classes == c
            designs[here] = choices[(pick[here] * len(choices)).long()]
        designs[torch.arange(slots) >= number[:, None]] = -1
        return designs, torch.randint(len(self.backdrops), (count,), generator=generator)

    def captions(self, scenes: Scenes, generator: torch.Generator) -> list[str]:
        """One caption for each scene: always its objects, mostly its background, sometimes a prefix or full stop."""
        luck = torch.rand(len(scenes.designs), 4, generator=generator).tolist()
        lines = []
        rows = zip(scenes.designs.tolist(), scenes.backdrops.tolist(), luck)
        for row, backdrop, (prefix, place, stop, count) in rows:
            names = [self.atlas.designs[i].class_name for i in row if i >= 0]
            line = caption(names, self.backdrop_names[backdrop] if place > 0.08 else None, counted=count < 0.5)
            prefix = PREFIXES[1] if prefix < 0.1 else PREFIXES[2] if prefix < 0.15 else PREFIXES[0]
            lines.append(prefix + line + ("." if stop < 0.15 else ""))
        return lines

    def draw(self, designs: Tensor, backdrops: Tensor, generator: torch.Generator, mirror: float = 0.5) -> Scenes:
        """Draw scenes of the given designs `(B, K)` and backdrops `(B,)`; sizes, places and colours are random.

        `mirror` is how often a drawing is mirrored.
        """
        count, slots = designs.shape
        present = designs >= 0
        number = present.sum(1, keepdim=True)

        def uniform(low: float | Tensor, high: float | Tensor, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(shape or (count, slots), generator=generator)

        # Cells are a little larger than drawings: `reach` turns a drawing's side into a cell's.
        reach = CELL / (CELL - 2 * MARGIN)
        low, high = torch.tensor([0.56, 0.40, 0.28])[number - 1], torch.tensor([0.78, 0.50, 0.33])[number - 1]
        side = reach * uniform(low, high)
        wander = torch.tensor([0.13, 0.045, 0.015])[number - 1]
        x = (torch.arange(slots) + 0.5) / number + wander * uniform(-1, 1)
        feet = uniform(torch.where(number == 1, 0.80, 0.70), 0.95)
        half = side * self.half_height[designs.clamp(min=0)]
        y = torch.maximum(feet - half, half + 0.02)
        flip = torch.where(uniform(0, 1) < mirror, -1.0, 1.0)
        tone = torch.stack([uniform(0.92, 1.06), uniform(0.88, 1.12)], -1)

        # JobResult at twice the size from back to front (lowest feet last), then averaged.
        image = self._paint(backdrops, uniform)
        covered = image.new_zeros(count, slots, *image.shape[-2:])
        order = torch.where(present, y + half, -torch.inf).argsort(1)
        for rank in range(slots):
            k = order[:, rank]
            row = torch.nonzero(present[torch.arange(count), k])[:, 0]
            if not len(row):
                continue
            at = (row, k[row])
            numbers = (v[at].to(self.device) for v in (x, y, half, side, flip, tone, designs))
            shadow, colour, alpha = self._sticker(image.shape[-1], *numbers)
            rows = row.to(self.device)
            image[rows] = image[rows] * (1 - shadow) * (1 - alpha) + colour
            covered[rows] *= 1 - alpha
            covered[rows, k[row].to(self.device)] = alpha[:, 0]
        images = F.avg_pool2d(image, 2).clamp(0, 1) * 2 - 1
        return Scenes(images, F.avg_pool2d(covered, 2) > 0.5, designs, backdrops)

    def _sticker(
        self, pixels: int, x: Tensor, y: Tensor, half: Tensor, side: Tensor, flip: Tensor, tone: Tensor, designs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Shadow `(n, 1, p, p)`, premultiplied colour `(n, 3, p, p)` and alpha `(n, 1, p, p)` of n objects."""
        axis = (torch.arange(pixels, device=self.device) + 0.5) / pixels
        dx, dy = axis - x[:, None], axis - y[:, None]
        u = (dx * (2 * flip / side)[:, None])[:, None, :].expand(-1, pixels, -1)
        v = (dy * (2 / side)[:, None])[:, :, None].expand(-1, -1, pixels)
        drawing = F.grid_sample(self.cells[designs], torch.stack([u, v], -1), align_corners=False)
        colour, alpha = drawing[:, :3], drawing[:, 3:]
        grey = colour.mean(1, keepdim=True)
        brightness, saturation = tone[:, 0, None, None, None], tone[:, 1, None, None, None]
        colour = ((grey + (colour - grey) * saturation) * brightness).clamp(min=0).minimum(alpha)
        ellipse = (dx[:, None, :] / (0.36 * side)[:, None, None]) ** 2
        ellipse = ellipse + ((dy - half[:, None])[:, :, None] / (0.06 * side)[:, None, None]) ** 2
        return 0.25 * (1.5 - ellipse).clamp(0, 1)[:, None], colour, alpha

    def _paint(self, backdrops: Tensor, uniform: Callable[..., Tensor]) -> Tensor:
        """Backgrounds `(B, 3, 2 size, 2 size)`, 0..1."""
        count, pixels = len(backdrops), 2 * self.size
        chosen = [self.backdrops[i] for i in backdrops.tolist()]
        axis = (torch.arange(pixels, device=self.device) + 0.5) / pixels
        down = axis[None, :, None]

        def numbers(values: Iterable[float | tuple[float, ...]]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float32)

        def layer(colours: list[tuple[str, str]], top: Tensor, bottom: Tensor) -> Tensor:
            pair = torch.stack([numbers(_rgb(c[i]) for c in colours) for i in (0, 1)], 1)  # (B, 2, 3)
            pair = (pair * uniform(0.95, 1.05, count, 1, 1) + uniform(-0.02, 0.02, count, 1, 3)).clamp(0, 1)
            pair = pair.to(self.device)[..., None, None]
            share = ((down - top) / (bottom - top)).clamp(0, 1)[:, None]
            return pair[:, 0] + (pair[:, 1] - pair[:, 0]) * share

        horizon = uniform(0.46, 0.58, count).to(self.device)[:, None, None]
        low, high = numbers(b.ridge_height[0] for b in chosen), numbers(b.ridge_height[1] for b in chosen)
        wave = (numbers(b.wave for b in chosen) * uniform(0.7, 1.3, count)).to(self.device)[:, None, None]
        turns, phase = uniform(5, 9, count).to(self.device), uniform(0, 6.3, count).to(self.device)
        ridge = horizon - uniform(low, high, count).to(self.device)[:, None, None]
        crest = ridge - wave * torch.sin(axis * turns[:, None] + phase[:, None])[:, None, :]

        image = layer([b.sky for b in chosen], torch.zeros_like(horizon), ridge)
        disc = torch.tensor([b.disc is not None for b in chosen]).to(self.device)[:, None, None, None]
        centre = torch.stack([uniform(0.1, 0.9, count), uniform(0.08, 0.2, count)], 1).to(self.device)
        radius = uniform(0.06, 0.085, count).to(self.device)[:, None, None]
        distance = torch.hypot(axis[None, None] - centre[:, 0, None, None], down - centre[:, 1, None, None])
        inside = ((radius - distance) * pixels + 0.5).clamp(0, 1)[:, None] * disc
        colour = numbers(_rgb(b.disc or "000000") for b in chosen).to(self.device)[..., None, None]
        image = image + (colour - image) * inside
        for colours, edge, bottom in (
            ([b.ridge for b in chosen], crest, horizon),
            ([b.ground for b in chosen], horizon, torch.ones_like(horizon)),
        ):
            below = ((down - edge) * pixels + 0.5).clamp(0, 1)[:, None]
            image = image + (layer(colours, edge, bottom) - image) * below
        return image


def caption(classes: list[str], backdrop: str | None = None, counted: bool = True) -> str:
    """The exact caption of objects named from left to right: "a dog and a cat on the beach", "two dogs at night".

    `counted=False` gives "a dog and a dog at night", the form that a concept's variant of a prompt has.
    """
    if counted and len(classes) > 1 and len(set(classes)) == 1:
        text = f"{COUNT_WORDS[len(classes)]} {classes[0]}s"
    else:
        names = [("an " if name[0] in "aeiou" else "a ") + name for name in classes]
        text = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return text + (f" {BACKDROPS[backdrop].phrase}" if backdrop else "")


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in bytes.fromhex(colour))
