"""Pages that need no other file: templates filled with text that stays text, data and images in the page itself."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from concept_conductor.io.printable import printable, printable_data


def _shown(value: Any) -> Any:
    """Return what a template writes: a plain string without characters that would act, the rest as it is."""
    return printable(value) if type(value) is str else value


_PAGES = Environment(autoescape=True, finalize=_shown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def render(template: str, **values: Any) -> str:
    """Fill a jinja2 template; what comes from people is escaped wherever it stands."""
    return _PAGES.from_string(template).render(values)


def embedded_json(data: Any) -> Markup:
    """Return JSON that cannot end the script element it stands in.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(printable_data(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def data_uri(content: bytes, kind: str) -> str:
    """Return an image's bytes, of the type ``image/kind``, as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_uri(image: Image.Image) -> str:
    """Return an exact image as an address."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "png")


def webp_uri(image: Image.Image) -> str:
    """Return a compressed image as an address."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82)
    return data_uri(buffer.getvalue(), "webp")


def mask_uri(mask: NDArray[np.bool_]) -> str:
    """Return a mask ``(h, w)`` as an address of an image whose opaque pixels are inside."""
    alpha = Image.fromarray(mask.astype(np.uint8) * 255)
    return png_uri(Image.merge("LA", (alpha, alpha)))
