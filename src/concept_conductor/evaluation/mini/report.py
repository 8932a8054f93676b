"""How good the model is, in figures: what the judge finds in images made from fixed seeds.

A concept is shipped as `concepts/CLASS-STYLE.safetensors`, of the held-out design `CLASS/STYLE`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from concept_conductor.backbones.conditioning import Conditioning
from concept_conductor.baselines.merged import sample_merged
from concept_conductor.concepts.concept import Concept
from concept_conductor.concepts.data import Update
from concept_conductor.concepts.prompt import ConceptPrompt
from concept_conductor.denoiser.lora import ScaledUpdates
from concept_conductor.errors import ConductorError
from concept_conductor.evaluation.benchmark.methods import Method
from concept_conductor.io import drawing
from concept_conductor.io.tensors import mask_iou, to_images
from concept_conductor.layouts.layout import Layout
from concept_conductor.method.sampling import sample_alone
from concept_conductor.mini.arrangements import PAIRS, STEPS, WEIGHT, Arrangement, arrange, design_of
from concept_conductor.mini.judge import Finding, Judge
from concept_conductor.mini.world import World, caption
from concept_conductor.pipeline.pipeline import ConceptConductorPipeline, ConductorOutput
from concept_conductor.settings import Inversion


@dataclass(frozen=True)
class Outcome:
    """What became of a pair of concepts in one image."""

    present: list[bool]
    """For each concept: its design was found, wherever."""
    placed: list[bool]
    """It was found where the layout has it."""
    omitted: list[bool]
    """Nothing of its class was found where the layout has it."""
    overlap: list[float]
    """IoU of the layout's mask with the object, whatever it is, that covers it best; 0 where there is none."""


def text_to_image(
    pipe: ConceptConductorPipeline, prompt: str, seeds: Sequence[int], concept: Concept | None = None
) -> list[Image.Image]:
    """Images of one prompt by the base model, or by one concept's own model, without layout."""
    backbone = pipe.backbone
    noise = initial_noise(pipe, seeds)
    update: Mapping[str, Update] = {}
    if concept is None:
        texts = [backbone.encode_prompt(text) for text in (prompt, "")]
    else:
        texts = backbone.encode_concept_prompts(concept, WEIGHT, [prompt, ""])
        update = ScaledUpdates(concept.unet, WEIGHT)
    pixels = sample_alone(backbone, Conditioning.stack([texts]), update, noise, STEPS, pipe.defaults.guidance_scale)
    return to_images(pixels)


def initial_noise(pipe: ConceptConductorPipeline, seeds: Sequence[int]) -> Tensor:
    """One image's noise for each seed, `(images, 4, h, w)`."""
    side = pipe.backbone.unet.config.sample_size
    return torch.cat([torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def singles(pipe: ConceptConductorPipeline, world: World, seeds: int) -> Iterator[tuple[str, Image.Image, bool]]:
    """Prompt, image, and whether the largest object found is of the class that was asked for."""
    judge = Judge.load()
    for name, place in product(world.classes, world.backdrop_names):
        prompt = caption([name], place)
        for image in text_to_image(pipe, prompt, range(seeds)):
            findings = judge.find(image)
            largest = max(findings, key=lambda finding: finding.mask.sum(), default=None)
            yield prompt, image, largest is not None and largest.class_name == name


def doubles(pipe: ConceptConductorPipeline, world: World, seeds: int) -> Iterator[tuple[str, Image.Image, bool, bool]]:
    """Prompt, image, whether objects of both classes are found, and in the right order, for pairs of classes."""
    judge = Judge.load()
    for number, names in enumerate(permutations(world.classes, 2)):
        prompt = caption(list(names), world.backdrop_names[number % len(world.backdrop_names)])
        for image in text_to_image(pipe, prompt, range(seeds)):
            found = [finding.class_name for finding in judge.find(image)]
            both = set(names) <= set(found)
            yield prompt, image, both, both and found.index(names[0]) < found.index(names[1])


def alone(
    pipe: ConceptConductorPipeline, concepts: dict[str, Concept], world: World, seeds: int
) -> Iterator[tuple[str, Image.Image, bool]]:
    """Concept, image, and whether its design is what is found, for each concept in each background."""
    judge = Judge.load()
    for (name, concept), place in product(concepts.items(), world.backdrop_names):
        prompt = caption([" ".join(concept.placeholders)], place)
        for image in text_to_image(pipe, prompt, range(seeds), concept):
            largest = max(judge.find(image), key=lambda finding: finding.mask.sum(), default=None)
            yield name, image, largest is not None and largest.design == design_of(name)


def compose(
    pipe: ConceptConductorPipeline,
    concepts: Sequence[Concept],
    classes: Sequence[str],
    arrangement: Arrangement,
    method: Method,
    seeds: Sequence[int],
) -> list[Image.Image]:
    """Images of two concepts by the method, its ablations, or one model that both are merged into."""
    entries = [ConceptPrompt(concept, replaces=list(dict.fromkeys(classes)), weight=WEIGHT) for concept in concepts]
    if method.sampler is not None:
        noise = initial_noise(pipe, seeds)
        pixels = sample_merged(pipe, arrangement.prompt, entries, noise, STEPS, pipe.defaults.guidance_scale)
        return to_images(pixels)
    output = pipe(
        arrangement.prompt,
        entries,
        Layout(arrangement.image, arrangement.prompt, masks=arrangement.masks),
        num_inference_steps=STEPS,
        num_images_per_prompt=len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        inversion=Inversion(steps=250),
        **method.changes,
    )
    assert isinstance(output, ConductorOutput)
    return list(output.images)


def assess(findings: list[Finding], designs: Sequence[str], arrangement: Arrangement) -> Outcome:
    """Compare what was found with what was asked for; each finding counts for one concept at most."""
    outcome = Outcome([], [], [], [])
    for design, box, mask in zip(designs, arrangement.boxes, arrangement.masks):
        there = [finding for finding in findings if middle_inside(finding.box, box)]
        outcome.present.append(any(finding.design == design for finding in findings))
        outcome.placed.append(any(finding.design == design for finding in there))
        outcome.omitted.append(not any(finding.class_name == design.split("/")[0] for finding in there))
        outcome.overlap.append(max((mask_iou(finding.mask, np.asarray(mask)) for finding in findings), default=0.0))
    return outcome


def measure(
    pipe: ConceptConductorPipeline,
    world: World,
    concepts: dict[str, Concept],
    seeds: int,
    out: Path,
    methods: Sequence[Method],
    pairs: int = len(PAIRS),
) -> Iterator[tuple[str, str]]:
    """Figures, as (what, how much), from `seeds` images per prompt; contact sheets go to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    yield from measure_base(pipe, world, concepts, seeds, out)
    known = [pair for pair in PAIRS if set(pair) <= set(concepts)][:pairs]
    for method in methods if known else ():
        yield from measure_pairs(pipe, world, concepts, known, seeds, out, method)


def measure_base(
    pipe: ConceptConductorPipeline, world: World, concepts: dict[str, Concept], seeds: int, out: Path
) -> Iterator[tuple[str, str]]:
    """Figures of the base model, and of each concept alone."""
    images = list(singles(pipe, world, seeds))
    contact_sheet([(prompt, image) for prompt, image, _ in images[:: max(1, seeds)]]).save(out / "singles.png")
    yield "class right, one object", share([right for *_, right in images])

    both = list(doubles(pipe, world, seeds))
    contact_sheet([(prompt, image) for prompt, image, *_ in both[:: max(1, seeds)]]).save(out / "doubles.png")
    yield "both classes present, two objects", share([present for _, _, present, _ in both])
    yield "both present and in the right order", share([ordered for *_, ordered in both])

    if concepts:
        own = list(alone(pipe, concepts, world, seeds))
        contact_sheet([(name, image) for name, image, _ in own[:: max(1, seeds)]]).save(out / "concepts.png")
        yield "concept alone shows its own design", share([right for *_, right in own])


def measure_pairs(
    pipe: ConceptConductorPipeline,
    world: World,
    concepts: dict[str, Concept],
    pairs: Sequence[tuple[str, str]],
    seeds: int,
    out: Path,
    method: Method,
) -> Iterator[tuple[str, str]]:
    """Figures of one method over pairs of concepts, each in two layouts."""
    judge = Judge.load()
    outcomes, sheet = [], []
    for number, pair in enumerate(pairs):
        designs = [design_of(name) for name in pair]
        classes = [design.split("/")[0] for design in designs]
        for scene in (0, 1):
            place = world.backdrop_names[(2 * number + scene) % len(world.backdrop_names)]
            arrangement = arrange(world, classes, place, seed=scene)
            chosen = [concepts[name] for name in pair]
            for image in compose(pipe, chosen, classes, arrangement, method, range(seeds)):
                outcomes.append(assess(judge.find(image), designs, arrangement))
                sheet.append((" + ".join(pair), image))
    contact_sheet(sheet).save(out / f"{method.name}.png")
    yield f"{method.title}: both present", share([all(o.present) for o in outcomes])
    yield f"{method.title}: both in their places", share([all(o.placed) for o in outcomes])
    yield f"{method.title}: concepts omitted", share([gone for o in outcomes for gone in o.omitted])
    yield f"{method.title}: objects' IoU with the layout's", f"{np.mean([o.overlap for o in outcomes]):.2f}"


def share(values: Sequence[bool]) -> str:
    """ "75% (30/40)"."""
    return f"{100 * sum(values) / len(values):.0f}% ({sum(values)}/{len(values)})"


def load_concepts(folder: Path) -> dict[str, Concept]:
    """All concepts of `folder` by the names of their files.

    Raises:
        ConductorError: it holds none, or one that is named after no design.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ConductorError(f"the folder '{folder}' holds no concepts; expected files CLASS-STYLE.safetensors")
    for file in files:
        try:
            design_of(file.stem)
        except KeyError as error:
            raise ConductorError(f"'{file}' is named after no design of mini's world: {error.args[0]}") from error
    return {file.stem: Concept.load(file) for file in files}


def contact_sheet(images: Sequence[tuple[str, Image.Image]], columns: int = 8) -> Image.Image:
    """Draw captioned images side by side, of 128 pixels each."""
    shown = [drawing.scaled(image, 128) for _, image in images]
    return drawing.contact_sheet(shown, columns, gap=0, captions=[text for text, _ in images])


def middle_inside(box: tuple[float, ...], frame: tuple[float, ...]) -> bool:
    """Whether the middle of one box lies in the other."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return frame[0] <= x <= frame[2] and frame[1] <= y <= frame[3]
