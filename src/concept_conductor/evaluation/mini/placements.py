"""How well concepts are placed in given images: what the judge finds there, and what became of all else.

Each shipped concept takes the place of an object of its class, and is added beside an object of another class, in
scenes drawn from fixed seeds in designs that the base model knows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image

from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.evaluation.mini.report import contact_sheet, middle_inside, share
from concept_conductor.grounding.judge import JudgeGrounder
from concept_conductor.io.images import save_png
from concept_conductor.io.tensors import mask_pixels, to_images
from concept_conductor.layouts.boxes import Box
from concept_conductor.layouts.collage import Collage
from concept_conductor.layouts.cutout import Cutout
from concept_conductor.mini.arrangements import STEPS, WEIGHT, arrange, design_of, frame_of
from concept_conductor.mini.judge import Finding, Judge
from concept_conductor.mini.world import World, caption
from concept_conductor.pipeline.pipeline import ConceptConductorPipeline, ConductorOutput
from concept_conductor.placement.objects import Add, Replace
from concept_conductor.placement.placement import Placed, Placement
from concept_conductor.settings import Inversion

INVERSION_STEPS = 50
"""As many as sampling's: a quarter of the time that the report's 250 take."""

LEFT, RIGHT = (0.06, 0.3, 0.48, 0.9), (0.52, 0.3, 0.94, 0.9)
"""Where objects are added: left, top, right, bottom as fractions."""


@dataclass(frozen=True)
class Case:
    """A concept to place in an image."""

    concept: str
    """The name of its file, `CLASS-STYLE`."""
    kind: Literal["replaced", "added"]
    prompt: str
    """What the image is to show."""
    placed: Placed
    seed: int


@dataclass(frozen=True)
class Verdict:
    """What became of a case."""

    image: Image.Image
    recognised: bool
    """The judge finds the concept's design where it was to be."""
    psnr: float
    """Of all outside of the placement's mask to the original, in dB; infinite where no pixel changed."""


def replacing(world: World, name: str, seed: int, background: Literal["inversion", "noise"] = "inversion") -> Case:
    """A concept takes the place of an object of its class, which its name finds; an object of another stands beside."""
    subject, other = design_of(name).split("/")[0], companion(world, name, seed)
    classes = [subject, other] if seed % 2 else [other, subject]
    scene = arrange(world, classes, world.backdrop_names[seed % len(world.backdrop_names)], seed)
    placed = Placement.from_objects(
        scene.image, scene.prompt, [Replace(words=f"a {subject}")], JudgeGrounder(), background=background
    )
    return Case(name, "replaced", scene.prompt, placed, seed)


def adding(world: World, name: str, seed: int, background: Literal["inversion", "noise"] = "inversion") -> Case:
    """A concept, cut out of an image of it alone by its name, is added beside an object of another class."""
    design, other = design_of(name), companion(world, name, seed)
    subject = design.split("/")[0]
    place = world.backdrop_names[seed % len(world.backdrop_names)]
    generator = torch.Generator().manual_seed(seed)
    known = world.choices[world.classes.index(other)]
    choice = int(known[torch.randint(len(known), (1,), generator=generator)])
    own = Cutout.from_words(drawn(world, world.atlas.index(design), place, generator), f"a {subject}", JudgeGrounder())
    here, there = (_in_pixels(side, world.size) for side in ((LEFT, RIGHT) if seed % 2 else (RIGHT, LEFT)))
    beside = Cutout(Image.fromarray(world.atlas.cells[choice])).fitted(there)
    scene = Collage(drawn(world, None, place, generator), [beside]).image
    prompt = caption([subject, other] if seed % 2 else [other, subject], place)
    placed = Placement.from_objects(
        scene, caption([other], place), [Add(own, box=here)], layout_prompt=prompt, background=background
    )
    return Case(name, "added", prompt, placed, seed)


def companion(world: World, name: str, seed: int) -> str:
    """Another class than the concept's own."""
    others = [other for other in world.classes if other != design_of(name).split("/")[0]]
    return others[seed % len(others)]


def drawn(world: World, design: int | None, place: str, generator: torch.Generator) -> Image.Image:
    """An image of one design alone, or of nothing but the background."""
    designs = torch.tensor([[-1 if design is None else design]])
    scene = world.draw(designs, torch.tensor([world.backdrop_names.index(place)]), generator)
    return to_images(scene.images / 2 + 0.5)[0]


def place(pipe: ConceptConductorPipeline, concept: Concept, case: Case) -> Verdict:
    """Make the image of a case, and judge it."""
    output = pipe(
        case.prompt,
        [ConceptPrompt(concept, replaces=[design_of(case.concept).split("/")[0]], weight=WEIGHT)],
        case.placed.layout,
        placement=case.placed.placement,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(case.seed),
        inversion=Inversion(steps=INVERSION_STEPS),
    )
    assert isinstance(output, ConductorOutput)
    image = output.images[0]
    assert isinstance(image, Image.Image)
    return Verdict(image, recognised(Judge.load().find(image), case), psnr_outside(image, case.placed.placement))


def recognised(findings: list[Finding], case: Case) -> bool:
    """Whether the concept's design is found with its middle in the bounding box of its mask."""
    assert case.placed.layout.masks is not None
    (mask,) = (np.asarray(mask) for mask in case.placed.layout.masks)
    frame, design = frame_of(mask), design_of(case.concept)
    return any(finding.design == design and middle_inside(finding.box, frame) for finding in findings)


def psnr_outside(image: Image.Image, placement: Placement) -> float:
    """Peak signal-to-noise ratio to the original outside of the placement's mask, in dB."""
    outside = mask_pixels(placement.mask, image.size).numpy() <= 127
    original = np.asarray(placement.image.resize(image.size), dtype=np.float64)
    error = float(np.square(np.asarray(image, dtype=np.float64) - original)[outside].mean())
    return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def measure_placements(
    pipe: ConceptConductorPipeline,
    world: World,
    concepts: dict[str, Concept],
    seeds: Sequence[int],
    out: Path,
    background: Literal["inversion", "noise"] = "inversion",
) -> Iterator[tuple[str, str]]:
    """Figures, as (what, how much), each as soon as it is known; a contact sheet goes to the folder `out`.

    Concept number k is replaced and added once for each of `seeds`, from the seed times 100 plus k.
    """
    verdicts: dict[str, list[Verdict]] = {"replaced": [], "added": []}
    sheet = []
    for round_ in seeds:
        for number, (name, concept) in enumerate(concepts.items()):
            seed = 100 * round_ + number
            for case in (replacing(world, name, seed, background), adding(world, name, seed, background)):
                verdict = place(pipe, concept, case)
                verdicts[case.kind].append(verdict)
                sheet += [("image", case.placed.placement.image), ("layout", case.placed.layout.image)]
                sheet += [(f"{name} {'found' if verdict.recognised else 'not found'}", verdict.image)]
                save_png(contact_sheet(sheet, columns=9), out / "placements.png")
                yield f"{name} {case.kind}", "recognised" if verdict.recognised else "not recognised"
    for kind, some in verdicts.items():
        yield f"{kind}: concept recognised", share([verdict.recognised for verdict in some])
    everything = [verdict for some in verdicts.values() for verdict in some]
    yield "replaced or added: concept recognised", share([verdict.recognised for verdict in everything])
    yield "outside of the mask, lowest PSNR to the original", f"{min(verdict.psnr for verdict in everything):.1f} dB"


def _in_pixels(box: Box, side: int) -> Box:
    left, top, right, bottom = box
    return left * side, top * side, right * side, bottom * side
