"""On the embedded model heat and clusters lie on the objects that the judge finds in the finished image."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import torch

from concept_conductor import ConceptConductorPipeline, Inversion, Trace
from concept_conductor.denoiser.masks import resize
from concept_conductor.io.tensors import to_images
from concept_conductor.method.refinement import iou
from concept_conductor.method.sampling import sample
from concept_conductor.mini.judge import Judge
from concept_conductor.pipeline.inputs import Prompts, initial_latents, prepare_inputs, resolve_settings
from concept_conductor.tracing.traced_paths import traced_paths_of
from concept_conductor.tracing.views import Viewer

STEPS, LOOKED_AT = 25, 15
SCENES = [("mug", "robot", "beach"), ("car", "backpack", "snow")]


@pytest.mark.slow
@torch.no_grad()
def test_heat_and_clusters_lie_on_the_objects() -> None:
    pipe, judge = ConceptConductorPipeline.from_pretrained("mini"), Judge.load()
    backbone = pipe.backbone
    settings = resolve_settings(
        backbone.defaults, steps=STEPS, guidance_scale=2.5, alignment=None, injection=None, refinement=None,
        inversion=Inversion(cache=False), paths_per_forward=None,
    )  # fmt: skip
    ratios, overlaps = [], []
    for first, second, place in SCENES:
        prompt = f"a {first} and a {second} on the {place}"
        noise = initial_latents(backbone, (64, 64), 1, torch.Generator().manual_seed(0), None)
        inputs = prepare_inputs(backbone, settings, Prompts(prompt), size=(64, 64), latents=noise)
        viewer = Viewer(backbone, *traced_paths_of(Trace("nowhere"), backbone, prompt, [], None), clusters=5)
        with closing(sample(backbone, inputs, settings, traced={LOOKED_AT})) as running:
            steps = list(running)
        (view,) = viewer.view(steps[LOOKED_AT]).paths
        found = judge.find(to_images(backbone.decode_latents(steps[-1].latents))[0])
        masks = {finding.class_name: torch.as_tensor(finding.mask) for finding in found}
        assert set(masks) == {first, second}
        on_grid = {name: resize(mask[None, None], view.clusters.shape)[0, 0] for name, mask in masks.items()}
        # the text encoder looks back only, so that the second object's word knows of both and is asked for most
        heat = view.heat[[word.text for word in view.path.words].index(second)]
        inside = on_grid[second].numpy()
        ratios.append(heat[inside].mean() / heat[~inside].mean())
        regions = torch.stack([torch.as_tensor(view.clusters == k).flatten() for k in range(5)])
        overlaps += [float(iou(regions, mask.flatten()).max()) for mask in on_grid.values()]
    assert min(ratios) > 3
    assert np.mean(overlaps) > 0.5
