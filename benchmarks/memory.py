"""Peak memory of 1, 2, 4 and 8 concepts, all paths at once and one by one, set against what is owed for a concept.

``python benchmarks/memory.py MODEL [--pixels 128]``: every case runs in a process of its own. Two figures are
given: the bytes of live tensors, which are the same in every run, and the resident set, which also shows what the
allocator keeps (on CUDA instead the peak of allocations). One by one, a further concept should cost what has to be
kept for it: its low-rank weights, its text conditioning, its decoder features (both guidance rows), and its share
of the attention that masks are refined from.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

COUNTS = (1, 2, 4, 8)
ORDERS = (("all at once", None), ("one by one", 1))
MIB = 2**20


def one_case(model: str, pixels: int, device: str, concepts: int, paths_per_forward: int | None) -> dict[str, int]:
    """Run an aligned and a refined step, and say what they took over the loaded model, in bytes."""
    import torch
    from live_bytes import LiveBytes
    from scenes import owed, random_concept, side_by_side

    from concept_conductor import Alignment, ConceptConductorPipeline, Inversion, Refinement

    torch.set_num_threads(1)  # threads have buffers of their own
    pipe = ConceptConductorPipeline.from_pretrained(model, torch_dtype=torch.float32).to(device)
    pipe.set_progress_bar_config(disable=True)
    entries = [random_concept(pipe, seed) for seed in range(concepts)]
    due = owed(pipe, entries[0], pixels)

    def resident() -> int:
        if device == "cuda":
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before = resident()
    with LiveBytes() as tensors:
        pipe(
            "things on the beach",
            entries,
            side_by_side(pixels, pixels, concepts),
            height=pixels,
            width=pixels,
            num_inference_steps=2,
            alignment=Alignment(end=0.0),
            refinement=Refinement(start=0.5, end=0.5),
            inversion=Inversion(steps=2, cache=False),
            paths_per_forward=paths_per_forward,
            output_type="latent",
        )
    return {"live tensors": tensors.peak, "resident set": resident() - before, **due}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(one_case(options.model, options.pixels, options.device, *options.case)))
        return
    print(
        f"{options.model}, {options.pixels}x{options.pixels} px, {options.device}, fp32: peak over the loaded model "
        f"in MiB for {', '.join(map(str, COUNTS))} concepts"
    )
    for label, paths_per_forward in ORDERS:
        results = []
        for count in COUNTS:
            command = [sys.executable, __file__, options.model, "--case", json.dumps([count, paths_per_forward])]
            command += ["--pixels", str(options.pixels), "--device", options.device]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            results.append(json.loads(done.stdout.strip().splitlines()[-1]))
        for figure in ("live tensors", "resident set"):
            peaks = [result[figure] / MIB for result in results]
            grown = (peaks[-1] - peaks[-2]) / (COUNTS[-1] - COUNTS[-2])
            shown = " ".join(f"{peak:6.1f}" for peak in peaks)
            print(f"  {label}, {figure}: {shown}; {grown:.1f} a concept from {COUNTS[-2]} to {COUNTS[-1]}", flush=True)
    parts = {name: size / MIB for name, size in results[0].items() if name not in ("live tensors", "resident set")}
    listed = ", ".join(f"{name} {size:.1f}" for name, size in parts.items())
    print(f"  owed for a concept one by one: {sum(parts.values()):.1f} ({listed})")


if __name__ == "__main__":
    main()
