"""The published models' full size with random weights: seconds, peak memory, and that it runs at all.

``python benchmarks/full_size.py``: SD1.5 at 512 px, two concepts, 200 steps, all paths at once and one by one; on
CUDA in fp16. ``--family sdxl`` does the same at 1024 px.

On a CPU with 24 GiB: ``python benchmarks/full_size.py --family sdxl --steps 2 --train 1 --dtype bfloat16 --pixels 512
--paths 1`` loads, runs two steps and trains one.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from PIL import Image
from scenes import random_concept, side_by_side

from concept_conductor import ConceptConductorPipeline, Inversion
from concept_conductor.backbones.meta import PUBLISHED, SCHEDULER, MetaModel
from concept_conductor.training.config import Augmentation, Precision, Samples, TrainingConfig
from concept_conductor.training.trainer import Trainer

WORDS = ("dog", "a")  # the embedded model's tokenizer knows them


def random_pipeline(family: str, dtype: torch.dtype, device: str) -> ConceptConductorPipeline:
    """A family's published shapes; the tokenizer is the embedded model's, whose ids the text encoders also have."""
    tokenizer = ConceptConductorPipeline.from_pretrained("mini").tokenizer
    tokenizer.model_max_length = 77
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    configs = MetaModel.published(family).configs
    texts = {name: {**config, **ends} for name, config in configs.items() if name.startswith("text_encoder")}
    blueprint = MetaModel({**configs, **texts})
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # the weights are made in it: in fp32 they would not fit beside each other
    try:
        with torch.device(device):
            parts = blueprint.networks()
    finally:
        torch.set_default_dtype(before)
    tokenizers = {name.replace("text_encoder", "tokenizer"): tokenizer for name in texts}
    return ConceptConductorPipeline(**parts, **tokenizers, scheduler=DDIMScheduler.from_config(configs[SCHEDULER]))


def peak(device: str) -> str:
    """The most memory there was so far."""
    if device == "cuda":
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB on the GPU"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB resident"


def sample(pipe: ConceptConductorPipeline, options: argparse.Namespace, paths_per_forward: int | None) -> None:
    """One image of random concepts."""
    entries = [random_concept(pipe, seed) for seed in range(options.concepts)]
    first_step: list[float] = []

    def note(_pipe: object, step: int, *_: object) -> None:
        if step == 0:
            first_step.append(time.perf_counter())

    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    pipe(
        "things on the beach", entries, side_by_side(options.pixels, options.pixels, options.concepts),
        num_inference_steps=options.steps, inversion=Inversion(steps=options.steps, cache=False),
        height=options.pixels, width=options.pixels, paths_per_forward=paths_per_forward, callback_on_step_end=note,
    )  # fmt: skip
    end = time.perf_counter()
    label = "all at once" if paths_per_forward is None else f"{paths_per_forward} path(s) in a forward"
    print(
        f"{options.family} size, {options.pixels} px, {options.concepts} concepts, {options.steps} steps, {label}: "
        f"{end - first_step[0]:.1f} s after {first_step[0] - start:.1f} s of inversion and the first step, "
        f"peak {peak(options.device)}",
        flush=True,
    )


def train(pipe: ConceptConductorPipeline, options: argparse.Namespace) -> None:
    """So many steps of training a concept by the family's recipe."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        images.mkdir()
        Image.new("RGB", (options.pixels, options.pixels), "navy").save(images / "one.png")
        config = TrainingConfig(
            model=options.family, images=images, output=Path(folder) / "thing.safetensors", placeholders=("<a>", "<b>"),
            class_word=WORDS[0], steps=options.train, batch=1, resolution=options.pixels, samples=Samples(prompts=()),
            precision=Precision.fp32 if options.dtype == "float32" else Precision.bf16, checkpoint_every=10**6,
            augmentation=Augmentation(templates=(f"{WORDS[1]} {{}}",)), gradient_checkpointing=True,
        )  # fmt: skip
        start = time.perf_counter()
        with closing(Trainer(pipe.backbone, config).run(resume=False)) as steps:
            for step in steps:
                print(f"  step {step.step}: loss {step.loss:.3f}")
    seconds = (time.perf_counter() - start) / options.train
    print(f"{options.family} size, {options.pixels} px, training: {seconds:.1f} s a step, peak {peak(options.device)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=sorted(PUBLISHED), default="sd15")
    parser.add_argument("--concepts", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--train", type=int, default=0, help="steps of training after the images")
    parser.add_argument("--pixels", type=int, help="the model's own size if not given")
    parser.add_argument("--paths", type=int, help="paths in a forward; all at once and one by one if not given")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.dtype = options.dtype or ("float16" if options.device == "cuda" else "float32")
    pipe = random_pipeline(options.family, getattr(torch, options.dtype), options.device)
    options.pixels = options.pixels or pipe.unet.config.sample_size * pipe.backbone.vae_factor
    print(
        f"{options.family} size in {options.dtype} on {options.device}: loaded, peak {peak(options.device)}", flush=True
    )
    for paths_per_forward in (None, 1) if options.paths is None else (options.paths,):
        sample(pipe, options, paths_per_forward)
    if options.train:
        train(pipe, options)


if __name__ == "__main__":
    main()
