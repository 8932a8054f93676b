"""Loop time over the bare cost of its forwards, refinement's share, and the gain over copy-and-merge.

Ratios measured in one run: ``python benchmarks/speed.py MODEL`` (``mini``, or a diffusers folder).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from copy_and_merge import sample as copy_and_merge
from scenes import random_concept, side_by_side

from concept_conductor import Alignment, ConceptConductorPipeline, Inversion, Refinement
from concept_conductor.denoiser.masks import Masks
from concept_conductor.denoiser.paths import Fusion
from concept_conductor.method.inversion import invert
from concept_conductor.method.multipath import multipath
from concept_conductor.method.refinement import RefinedMasks
from concept_conductor.method.sampling import sample
from concept_conductor.pipeline.inputs import Prompts, prepare_inputs, resolve_settings
from concept_conductor.settings import Injection

CONCEPTS = 2


class LayoutReached(Exception):
    pass


def timed(work: Callable[[], object], synchronize: Callable[[], None]) -> float:
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="mini")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-copies", action="store_true", help="leave the copy-and-merge reference out")
    options = parser.parse_args()

    pipe = ConceptConductorPipeline.from_pretrained(options.model, torch_dtype=torch.float32).to(options.device)
    backbone, steps = pipe.backbone, options.steps
    side = backbone.unet.config.sample_size * backbone.vae_factor
    entries = [random_concept(pipe, seed) for seed in range(CONCEPTS)]
    settings = resolve_settings(
        backbone.defaults,
        steps=steps,
        guidance_scale=7.5,
        alignment=Alignment(),
        refinement=Refinement(),
        injection=Injection(),
        inversion=Inversion(steps=steps, cache=False),
        paths_per_forward=None,
    )
    unrefined = settings.model_copy(update={"refinement": None})
    latents = torch.randn(1, 4, side // backbone.vae_factor, side // backbone.vae_factor).to(options.device)
    layout = side_by_side(side, side, CONCEPTS)
    prompts = Prompts("things on the beach")
    inputs = prepare_inputs(
        backbone, settings, prompts, size=(side, side), latents=latents, concepts=entries, layout=layout
    )
    synchronize = torch.cuda.synchronize if options.device == "cuda" else (lambda: None)

    # the inversion is not part of the loop: what counts starts when the first step is done
    timesteps = backbone.timesteps(steps)
    alignment, refinement = settings.alignment, settings.refinement
    assert alignment is not None and refinement is not None
    aligned = alignment.aligned_steps(steps)
    refined = refinement.refined_steps(steps)

    def loop() -> tuple[torch.Tensor, float]:
        """The last latents, and the seconds of all steps but the first."""
        run = sample(backbone, inputs, unrefined)
        next(run)
        synchronize()
        start = time.perf_counter()
        *_, last = run
        synchronize()
        return last.latents, time.perf_counter() - start

    def bare() -> None:
        """The same rows through the untouched U-Net: forward, and where aligned partial forward and backward."""
        paths, unet = CONCEPTS + 1, backbone.unet
        text = inputs.text.texts[:, :, 0].flatten(0, 1)
        layer = unet.get_submodule(backbone.layout_layer).to_k

        def stop(_module: object, _inputs: object, output: torch.Tensor) -> None:
            raise LayoutReached(output)

        for index, t in enumerate(timesteps[1:], start=1):
            if index in aligned:
                leaf = latents.clone().requires_grad_()
                handle = layer.register_forward_hook(stop)
                try:
                    unet(leaf.repeat(paths, 1, 1, 1), t, encoder_hidden_states=text[::2])
                except LayoutReached as reached:
                    torch.autograd.grad(reached.args[0].square().mean(), leaf)
                finally:
                    handle.remove()
            with torch.no_grad():
                unet(latents.repeat(2 * paths, 1, 1, 1), t, encoder_hidden_states=text)

    def refine() -> None:
        masks = RefinedMasks(given)
        for index in refined:
            masks = masks.refined(attention, index, refinement)

    given = Masks(inputs.masks.grid[None].to(options.device))  # type: ignore[attr-defined]
    with torch.no_grad(), multipath(backbone, inputs.updates) as paths:
        fusion = Fusion(given, settings.injection or Injection(), record=True)
        paths.predict(latents, timesteps[len(timesteps) // 3], inputs.text, slice(0, CONCEPTS + 1), fusion)
        attention = fusion.attention[0]

    backbone.unet.requires_grad_(False)
    for warm in (loop, bare, refine):
        warm()
    rounds = [(loop()[1], timed(bare, synchronize), timed(refine, synchronize)) for _ in range(options.repeats)]
    loop_time, bare_time, refine_time = (median(column) for column in zip(*rounds, strict=True))
    print(
        f"{options.model}: {CONCEPTS} concepts, {steps} steps, {side}x{side} px, {options.device}, "
        f"medians of {options.repeats}"
    )
    ratio = median(ours / plain for ours, plain, _ in rounds)
    print(f"  loop {loop_time:.2f} s, bare forwards {bare_time:.2f} s: ratio {ratio:.3f}")
    share = refine_time / (loop_time + refine_time)
    print(f"  refinement {refine_time:.3f} s for {len(refined)} refinements: {share:.1%} of the whole")
    if options.no_copies:
        return

    step_size = alignment.step_size
    assert inputs.reference is not None and step_size is not None
    with torch.no_grad(), multipath(backbone, [{}]) as paths:
        reference = invert(paths, inputs.reference, timesteps, aligned, settings.inversion)

    def copies() -> torch.Tensor:
        return copy_and_merge(
            backbone,
            inputs.updates,
            inputs.text.texts,
            latents,
            given.grid[0],
            reference.keys,
            steps,
            step_size,
            settings.guidance_scale,
        )

    (ours, seconds), theirs = loop(), copies()
    difference = float((ours - theirs).norm() / theirs.norm())
    slow = timed(copies, synchronize) * (steps - 1) / steps
    print(f"  copy-and-merge {slow:.2f} s: {slow / seconds:.1f} times the loop; same latents to {difference:.1e}")


if __name__ == "__main__":
    main()
