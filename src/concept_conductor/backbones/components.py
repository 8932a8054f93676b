"""Whether a model's parts, taken together, are what the method honours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from concept_conductor.backbones.component_configs import TextEncoderConfig, UNetConfig, VaeConfig, check_config
from concept_conductor.errors import FamilyError

TIME_IDS = 6
"""Numbers of SDXL's size conditioning."""


def check_components(components: Mapping[str, Any], what: str) -> None:
    """Look at the configurations of a model's networks, alone and beside each other.

    Args:
        components: name -> network; all of a family's.
        what: they are, for the message.

    Raises:
        ConductorError: a network computes in a way that the method does not honour.
        FamilyError: they do not belong together.
    """
    unet = check_config(UNetConfig, dict(components["unet"].config), f"the U-Net of {what}")
    vae = check_config(VaeConfig, dict(components["vae"].config), f"the VAE of {what}")
    encoders = []
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := components.get(name)) is not None:
            fields = {field: getattr(encoder.config, field, None) for field in TextEncoderConfig.model_fields}
            given = {field: value for field, value in fields.items() if value is not None}
            encoders.append(check_config(TextEncoderConfig, given, f"the {name} of {what}"))
    check_channels(unet, vae, what)
    check_text_width(unet, encoders, what)


def check_channels(unet: Mapping[str, Any], vae: Mapping[str, Any], what: str) -> None:
    """Raise FamilyError unless U-Net and VAE have the same latents."""
    channels, latent = unet.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latent:
        raise FamilyError(
            f"{what} takes {channels} channels (an inpainting model?) where its VAE has {latent}; expected a "
            "text-to-image model"
        )


def check_text_width(unet: Mapping[str, Any], encoders: list[dict[str, Any]], what: str) -> None:
    """Raise FamilyError unless the U-Net reads what the text encoders write, and is conditioned as its family is."""
    width = sum(encoder.get("hidden_size", 512) for encoder in encoders)
    if width != unet.get("cross_attention_dim", 1280):
        raise FamilyError(
            f"the U-Net of {what} reads texts of width {unet.get('cross_attention_dim', 1280)}, but its text encoders "
            f"write {width}; expected the parts of one model"
        )
    added, two = unet.get("addition_embed_type"), len(encoders) == 2
    if (added is not None) != two:
        raise FamilyError(
            f"the U-Net of {what} {'lacks' if two else 'wants'} size conditioning ('addition_embed_type'), which a "
            f"model with {'two text encoders has' if two else 'one text encoder lacks'}; expected parts of one model"
        )
    if two:
        expected = TIME_IDS * unet["addition_time_embed_dim"] + encoders[1].get("projection_dim", 512)
        if unet["projection_class_embeddings_input_dim"] != expected:
            raise FamilyError(
                f"the U-Net of {what} is conditioned on {unet['projection_class_embeddings_input_dim']} numbers, but "
                f"its second text encoder and the {TIME_IDS} of the size give {expected} (a refiner?); expected an "
                "SDXL base model"
            )
