"""Images: read from strangers with care, written whole, with the recipe they were made from inside."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from concept_conductor.errors import ConductorError
from concept_conductor.io.files import atomic_write

MAX_PIXELS = 2**26
"""Largest image that is decoded: 67 million pixels, 8192 x 8192."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""What is read; formats that call other programs (EPS, PDF) are not."""

RECIPE_KEY = "concept-conductor"
"""PNG text chunk that holds the recipe."""

MAX_RECIPE_CHARACTERS = 2**20

CAPTION_HEIGHT, CAPTION_SIZE = 14, 10


# Pillow meets damaged files with all of these.
_DECODING_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError,
    OverflowError, MemoryError, struct.error, zlib.error, Warning,
)  # fmt: skip

# IPTC's mark for images made by a trained model.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def load_image(path: str | Path) -> Image.Image:
    """Read an image as RGB.

    EXIF rotation is applied, transparency is laid on white, 16 bits become 8, an animation gives its first frame.

    Raises:
        ConductorError: the file is missing, no image, damaged, or larger than ``MAX_PIXELS``.
    """
    return as_rgb(_decode(Path(path)))


def load_mask(path: str | Path) -> Image.Image:
    """Read a mask as L: white is inside; transparency is laid on black, so that it is outside.

    Raises:
        ConductorError: as for :func:`load_image`.
    """
    return as_mask(_decode(Path(path)))


def load_layer(path: str | Path) -> Image.Image:
    """Read an image with its transparency: RGBA where it has any, else RGB.

    Raises:
        ConductorError: as for :func:`load_image`.
    """
    return as_layer(_decode(Path(path)))


def as_layer(image: Image.Image) -> Image.Image:
    """A copy of an image in memory, as :func:`load_layer` reads one."""
    image = _upright(image)
    return image.convert("RGBA") if image.has_transparency_data else as_rgb(image).copy()


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in memory as RGB, as :func:`load_image` reads one."""
    return _flatten(_upright(image), "white").convert("RGB")


def as_mask(image: Image.Image) -> Image.Image:
    """An image in memory as L, as :func:`load_mask` reads one."""
    return _flatten(_upright(image), "black").convert("L")


def _decode(path: Path) -> Image.Image:
    """Pixels of any mode; the size is checked before they are decoded."""
    if not path.is_file():
        raise ConductorError(f"there is no image '{path}'; check the path, which counts from the recipe's folder")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "Palette images with Transparency")  # it is made RGBA, as advised
            warnings.filterwarnings("ignore", ".*EXIF")  # a damaged tag leaves the pixels whole
            with Image.open(path, formats=FORMATS) as image:
                if (pixels := image.width * image.height) > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{pixels} pixels")
                image.load()
                return _upright(image).copy()  # a copy has lost a TIFF's orientation
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        counted = re.search(r"(\d+) pixels", str(error))  # in Pillow's own words too
        came = f"{int(counted[1]):,}" if counted else "too many"
        raise ConductorError(
            f"'{path}' has {came} pixels, but at most {MAX_PIXELS:,} are read; make it smaller first"
        ) from error
    except UnidentifiedImageError as error:
        raise ConductorError(f"'{path}' is no image; expected one of {', '.join(FORMATS)}") from error
    except _DECODING_ERRORS as error:
        raise ConductorError(f"'{path}' is damaged or incomplete ({error}); save or download it again") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data says; a damaged tag leaves the pixels as they are."""
    with suppress(*_DECODING_ERRORS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*EXIF")
        return ImageOps.exif_transpose(image)
    return image


def _flatten(image: Image.Image, background: str) -> Image.Image:
    """8 bits a channel and no transparency."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        full = next((top for top in (1, 255) if image.mode == "F" and values.max() <= top), 65535)
        return Image.fromarray((values / full * 255).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    return image


def save_png(image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write ``image`` with text ``metadata`` and the mark of a generated image; whole or not at all."""
    with atomic_write(path) as file:
        image.save(file, "PNG", pnginfo=png_info(metadata or {}))
    return Path(path)


def png_info(metadata: Mapping[str, str]) -> PngInfo:
    """Text chunks of a PNG: ``metadata`` and the mark of a generated image."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    for key, text in metadata.items():
        info.add_itxt(key, text, zip=len(text) > 1024)
    return info


def read_recipe(path: str | Path) -> str:
    """The JSON text that an image of ours carries.

    Raises:
        ConductorError: the file is no PNG, is damaged, or carries no recipe.
    """
    path = Path(path)
    if not path.is_file():
        raise ConductorError(f"there is no image '{path}'; expected a PNG made by conductor generate")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Image.open(path, formats=("PNG",)) as image:
                text = image.info.get(RECIPE_KEY)
    except (*_DECODING_ERRORS, Image.DecompressionBombError) as error:
        raise ConductorError(f"'{path}' is no PNG that can be read; expected one made by conductor generate") from error
    if not isinstance(text, str):
        raise ConductorError(
            f"'{path}' carries no recipe; expected a PNG as conductor generate wrote it (editing drops the recipe)"
        )
    if len(text) > MAX_RECIPE_CHARACTERS:
        raise ConductorError(f"the recipe in '{path}' has {len(text):,} characters; expected at most 1,048,576")
    return str(text)
