"""Peak memory of 1, 2, 4 and 8 concepts, all paths at once and one by one.

Every case runs in a process of its own, so that the peak resident set (on CUDA the peak of allocations) is its
own: ``python benchmarks/memory.py MODEL [--pixels 128]``. What one further concept costs is set against its own
weights plus the decoder features that have to be kept for it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

COUNTS = (1, 2, 4, 8)
ONE_BY_ONE, ALL_AT_ONCE = 1, None


def peak_of_one_case(model: str, pixels: int, concepts: int, paths_per_forward: int | None, device: str) -> dict:
    """Run three steps, an aligned, a refined and a plain one, and say what they took, in bytes."""
    import torch
    from scenes import random_concept, side_by_side

    from concept_conductor import Alignment, ConceptConductorPipeline, Inversion, Refinement
    from concept_conductor.unet.layers import attention_layers, decoder_attention_names

    pipe = ConceptConductorPipeline.from_pretrained(model, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    entries = [random_concept(pipe, seed) for seed in range(concepts)]
    tokens: list[int] = []

    def note(_module: object, inputs: tuple, output: torch.Tensor) -> None:
        tokens.append(output[0].numel() * output.element_size())  # a row's features

    decoder = [attention_layers(pipe.unet)[name] for name in decoder_attention_names(pipe.unet)]
    with torch.no_grad():  # learn the sizes of the decoder's features from one plain forward
        hooks = [layer.register_forward_hook(note) for layer in decoder]
        side = pixels // pipe.backbone.vae_factor
        text = pipe.backbone.encode_prompt("x")
        added = pipe.backbone.added_conditioning(text, slice(0, 1), 1, (side, side))
        pipe.unet(torch.zeros(1, 4, side, side, device=device), 1, encoder_hidden_states=text.texts[0, :, 0], **added)
        for hook in hooks:
            hook.remove()
    concept = entries[0].concept
    weights = sum(t.numel() * 4 for update in concept.unet.values() for t in update)

    def peak() -> int:
        if device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = peak()
    pipe(
        "things on the beach",
        entries,
        side_by_side(pixels, pixels, concepts),
        height=pixels,
        width=pixels,
        num_inference_steps=3,
        alignment=Alignment(end=0.3),
        refinement=Refinement(start=0.4, end=0.4),
        inversion=Inversion(steps=3, cache=False),
        paths_per_forward=paths_per_forward,
        output_type="latent",
    )
    return {"before": before, "peak": peak(), "weights": weights, "features": 2 * sum(tokens)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(peak_of_one_case(options.model, options.pixels, *options.case, options.device)))
        return
    mib = 2**20
    size = f"{options.pixels}x{options.pixels} px"
    print(f"{options.model}, {size}, {options.device}, fp32: peak over the loaded model, MiB")
    for label, paths_per_forward in (("all at once", ALL_AT_ONCE), ("one by one", ONE_BY_ONE)):
        results = []
        for count in COUNTS:
            case = json.dumps([count, paths_per_forward])
            command = [sys.executable, __file__, options.model, "--pixels", str(options.pixels), "--case", case]
            command += ["--device", options.device]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.strip().splitlines()[-1]))
        peaks = [(r["peak"] - r["before"]) / mib for r in results]
        growth = (peaks[-1] - peaks[0]) / (COUNTS[-1] - COUNTS[0])
        owed = (results[0]["weights"] + results[0]["features"]) / mib
        shown = ", ".join(f"{count}: {peak:.0f}" for count, peak in zip(COUNTS, peaks, strict=True))
        print(f"  {label:12s} {shown}; {growth:.1f} a further concept (its weights and decoder features: {owed:.1f})")


if __name__ == "__main__":
    main()
