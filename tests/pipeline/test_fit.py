"""A layout or placement of other proportions than the run's is cropped or padded, and never stretched."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from concept_conductor import ConceptConductorPipeline, ConductorError, Layout, Placement
from tests.conftest import tiny_image

PROMPT = "A dog and a cat in the street."


def widened(image: Image.Image) -> Image.Image:
    """The same image with as much again on both sides, which a crop to the middle cuts off."""
    wide = Image.new(image.mode, (2 * image.width, image.height))
    wide.paste(image, (image.width // 2, 0))
    return wide


def test_a_wide_layout_is_cropped_to_its_middle(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    reference, masks = tiny_image("ref").resize((128, 128)), [tiny_image(f"mask{n}").resize((128, 128)) for n in (1, 2)]
    call = {**tiny_call, "num_inference_steps": 2, "generator": 0}
    square = tiny_pipe(**{**call, "layout": Layout(reference, PROMPT, masks)})
    with caplog.at_level(logging.WARNING):
        wide = tiny_pipe(**{**call, "layout": Layout(widened(reference), PROMPT, [widened(mask) for mask in masks])})
    assert torch.equal(square.masks, wide.masks)
    assert torch.allclose(square.images, wide.images, atol=1e-4)
    assert "the layout image" in caplog.text


def test_a_place_in_what_is_cut_off_is_told(tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]) -> None:
    layout = Layout(widened(tiny_image("ref").resize((128, 128))), PROMPT, points=[(3, 60), (128, 60)])
    with pytest.raises(ConductorError, match="fit"):
        tiny_pipe(**{**tiny_call, "layout": layout})


def test_a_placement_keeps_its_images_proportions(
    tiny_pipe: ConceptConductorPipeline, tiny_call: dict[str, Any]
) -> None:
    image = tiny_image("init").convert("RGB").resize((128, 128))
    mask = np.zeros((128, 256), dtype=bool)
    mask[40:90, 100:150] = True
    placement = Placement(widened(image), mask, background="noise")
    call = {**tiny_call, "num_inference_steps": 1, "alignment": None, "output_type": "pil", "placement": placement}
    made = np.asarray(tiny_pipe(**call).images[0])
    outside = np.ones((128, 128), dtype=bool)
    outside[40:90, 36:86] = False
    assert (made[outside] == np.asarray(image)[outside]).all()
