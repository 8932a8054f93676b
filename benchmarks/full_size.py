"""Seconds per image and peak memory at SD1.5's full size with random weights (a CUDA card is meant).

``python benchmarks/full_size.py``: 512 px, fp16, two concepts, 200 steps, inversion apart from the loop. Without
such a card, ``--steps 2 --pixels 256`` shows in fp32, in minutes and 6 GB, that it works.
"""

from __future__ import annotations

import argparse
import time

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from scenes import random_concept, side_by_side
from transformers import CLIPTextConfig, CLIPTextModel

from concept_conductor import ConceptConductorPipeline, Inversion

CONCEPTS = 2


def random_sd15(dtype: torch.dtype, device: str) -> ConceptConductorPipeline:
    """SD1.5's shapes; the tokenizer is the embedded model's, whose ids the text encoder also has."""
    tokenizer = ConceptConductorPipeline.from_pretrained("mini").tokenizer
    tokenizer.model_max_length = 77
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).to(dtype)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ).to(dtype)  # fmt: skip
        encoder = CLIPTextModel(text).to(dtype)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    return ConceptConductorPipeline(vae, encoder, tokenizer, unet, scheduler).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    cuda = options.device == "cuda"
    dtype = torch.float16 if cuda else torch.float32
    pipe = random_sd15(dtype, options.device)
    entries = [random_concept(pipe, seed) for seed in range(CONCEPTS)]
    for label, paths_per_forward in (("all at once", None), ("one by one", 1)):
        inverted: list[float] = []

        def note(done: int, total: int, ends: list[float] = inverted) -> None:
            if done == total:
                if cuda:
                    torch.cuda.synchronize()
                ends.append(time.perf_counter())

        if cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        pipe(
            "things on the beach", entries, side_by_side(options.pixels, options.pixels, CONCEPTS),
            height=options.pixels, width=options.pixels, num_inference_steps=options.steps,
            inversion=Inversion(steps=options.steps, cache=False), paths_per_forward=paths_per_forward,
            callback_on_inversion=note,
        )  # fmt: skip
        end = time.perf_counter()
        peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if cuda else ""
        print(
            f"SD1.5 size, {options.pixels} px, {CONCEPTS} concepts, {options.steps} steps, {dtype}, {options.device}, "
            f"{label}: {end - inverted[0]:.1f} s an image after {inverted[0] - start:.1f} s of inversion{peak}",
            flush=True,
        )


if __name__ == "__main__":
    main()
