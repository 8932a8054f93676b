"""Captions: what an image's text is, and how it varies from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

#: Stands for the placeholders in captions and sample prompts.
TOKEN = "<TOK>"
#: The caption of an image that has none, where templates are not used.
FALLBACK = f"photo of a {TOKEN}"

_OBJECTS = (
    "a photo of a {}",
    "a photo of the {}",
    "a photo of one {}",
    "a photo of my {}",
    "the photo of a {}",
    "a rendering of a {}",
    "a rendition of a {}",
    "a rendition of the {}",
    "a good photo of a {}",
    "a good photo of the {}",
    "a bright photo of the {}",
    "a dark photo of the {}",
    "a cropped photo of a {}",
    "a cropped photo of the {}",
    "a close-up photo of a {}",
    "a close-up photo of the {}",
    "a photo of a nice {}",
    "a photo of the nice {}",
    "a photo of a cool {}",
    "a photo of the cool {}",
    "a photo of a small {}",
    "a photo of the small {}",
    "a photo of the large {}",
    "a photo of the weird {}",
    "a photo of a clean {}",
    "a photo of the clean {}",
    "a photo of a dirty {}",
)
_PEOPLE = (
    "a photo of a {}",
    "a photo of the {}",
    "a photo of one {}",
    "the photo of a {}",
    "a rendering of a {}",
    "a rendition of a {}",
    "a rendition of the {}",
    "a good photo of a {}",
    "a good photo of the {}",
    "a bad photo of a {}",
    "a bad photo of the {}",
    "a bright photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a cropped photo of the {}",
    "a photo of a nice {}",
    "a photo of a cool {}",
    "a photo of a weird {}",
    "a weird photo of a {}",
)
TEMPLATES = {"objects": _OBJECTS, "people": _PEOPLE}


def with_placeholders(text: str, placeholders: Sequence[str]) -> str:
    """Return ``text`` with the placeholders where ``<TOK>`` stands."""
    return text.replace(TOKEN, " ".join(placeholders))


def varied(caption: str | None, templates: Sequence[str], shuffle: bool, random: Random) -> str:
    """Draw the text of one training sample, still with ``<TOK>``.

    The first phrase stays first, the other comma-separated phrases are shuffled, and a random template goes
    around; an image without a caption is the bare subject in a template.

    Args:
        caption: the image's own, or None.
        templates: ``{}`` is where the caption goes; the template ``{}`` alone leaves it as it is.
        shuffle: shuffle phrases.
        random: decides.
    """
    first, *others = [phrase.strip() for phrase in (caption or TOKEN).split(",")]
    if shuffle:
        random.shuffle(others)
    template = random.choice(list(templates))
    if caption is None and template == "{}":
        return FALLBACK
    return template.replace("{}", ", ".join([first, *others]))
