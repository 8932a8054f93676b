"""From the last latents to images: decode, put an original's pixels back around a placement, check for safety."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from concept_conductor.backbones.base import Backbone
from concept_conductor.io.tensors import mask_pixels, to_floats, to_images
from concept_conductor.pipeline.finite import check_pixels
from concept_conductor.placement.placement import Placement

#: Blacks out unsafe images; returns them with flags, or None without a checker.
SafetyCheck = Callable[[list[Image.Image]], tuple[list[Image.Image], list[bool] | None]]


def postprocess(
    backbone: Backbone,
    latents: Tensor,
    size: tuple[int, int],
    placement: Placement | None,
    safety_checked: SafetyCheck,
    output_type: str,
) -> tuple[Any, list[bool] | None]:
    """Turn a run's last latents into what the pipeline call returns.

    Args:
        latents: ``(n, 4, h, w)``.
        size: width and height in pixels.
        placement: outside of its mask, its image's own pixels are put back.
        safety_checked: looks at the images.
        output_type: "pil", "np", "pt" or "latent", for which nothing is decoded or checked.

    Returns:
        PIL images, an array ``(n, h, w, 3)`` or a tensor ``(n, 3, h, w)`` in 0..1, or the latents; and for each
        whether it was blacked out, None where nobody looked.
    """
    if output_type == "latent":
        return latents, None
    pixels = torch.cat([backbone.decode_latents(one) for one in latents.split(1)])  # one by one, to save memory
    check_pixels(pixels)
    images = to_images(pixels)
    if placement is not None:
        original = placement.image.convert("RGB").resize(size)
        mask = Image.fromarray(mask_pixels(placement.mask, size).numpy())
        images = [composite(image, original, mask, backbone.vae_factor / 2) for image in images]
    images, flagged = safety_checked(images)
    if output_type == "pil":
        return images, flagged
    if placement is not None or any(flagged or ()):
        pixels = torch.from_numpy(to_floats(images)).permute(0, 3, 1, 2)
    return (pixels if output_type == "pt" else pixels.permute(0, 2, 3, 1).cpu().numpy()), flagged


@torch.no_grad()
def decode_preview(backbone: Backbone, latents: Tensor) -> Image.Image:
    """Decode the first of ``latents`` as it is so far."""
    return to_images(backbone.decode_latents(latents[:1]))[0]


def black_out(
    images: list[Image.Image], checker: Any, features: Any, device: torch.device
) -> tuple[list[Image.Image], list[bool]]:
    """Black out what a checkpoint's safety checker refuses.

    Args:
        images: RGB, of one size.
        checker: diffusers' ``StableDiffusionSafetyChecker``, or one that is called as it is.
        features: what prepares the images for it.
        device: where it runs.
    """
    prepared = features(images, return_tensors="pt").pixel_values
    checker.to(device)
    _, flagged = checker(images=to_floats(images), clip_input=prepared.to(device, checker.dtype))
    flagged = [bool(flag) for flag in flagged]
    black = Image.new("RGB", images[0].size)
    return [black if flag else image for image, flag in zip(images, flagged, strict=True)], flagged


def composite(generated: Image.Image, original: Image.Image, mask: Image.Image, feather: float) -> Image.Image:
    """Put the generated image inside the mask and the original's own pixels outside, the seam feathered inward.

    Args:
        generated, original, mask: of one size; ``mask`` is "L", white where objects were placed.
        feather: width of the seam in pixels.
    """
    inside = mask.point(lambda value: 255 if value > 127 else 0)
    # eroded first, so that the blur's foot stays within the mask
    radius = max(1, round(feather))
    seam = inside.filter(ImageFilter.MinFilter(2 * radius + 1)).filter(ImageFilter.BoxBlur(radius))
    return Image.composite(generated, original, seam)
