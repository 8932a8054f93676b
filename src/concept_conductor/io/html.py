"""Parts of pages that need no other file: data and images that stand in the page itself."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def embedded_json(data: Any) -> str:
    """JSON that cannot end the script element it stands in.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def data_uri(content: bytes, kind: str) -> str:
    """An image's bytes, of the type ``image/kind``, as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_uri(image: Image.Image) -> str:
    """An exact image as an address."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "png")


def webp_uri(image: Image.Image) -> str:
    """A compressed image as an address."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82)
    return data_uri(buffer.getvalue(), "webp")


def mask_uri(mask: NDArray[np.bool_]) -> str:
    """A mask ``(h, w)`` as an address of an image whose opaque pixels are inside."""
    alpha = Image.fromarray(mask.astype(np.uint8) * 255)
    return png_uri(Image.merge("LA", (alpha, alpha)))
