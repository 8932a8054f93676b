"""Images: read from strangers with care, written whole, with the recipe they were made from inside."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError, features
from PIL.PngImagePlugin import PngInfo

from concept_conductor.errors import ConductorError
from concept_conductor.io.files import atomic_write
from concept_conductor.io.image_limits import MAX_PIXELS, check_cost
from concept_conductor.io.image_modes import TURN, to_grey, to_layer, to_rgb, turn_of
from concept_conductor.io.ordinary import is_ordinary

_AVIF = ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", *_AVIF)
"""What is read; formats that call other programs (EPS, PDF) are not."""

RECIPE_KEY = "concept-conductor"
"""PNG text chunk that holds the recipe."""

MAX_RECIPE_CHARACTERS = 2**20

# IPTC's mark for images made by a trained model.
_XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    "</rdf:RDF></x:xmpmeta>"
)


def load_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image as RGB, upright as its EXIF data says.

    Transparency is laid on white, 16 bits become 8, an animation gives its first frame. Colour profiles are not
    applied. What Pillow warns about leaves the pixels whole and is passed over.

    Raises:
        ConductorError: the file is missing, no image, damaged, or would take too much memory or time to decode.
    """
    with _decoded(Path(path)) as image:
        return to_rgb(image)


def load_mask(path: str | os.PathLike[str]) -> Image.Image:
    """Read a mask as L: white is inside; transparency is laid on black, so that it is outside.

    Raises:
        ConductorError: as for :func:`load_image`.
    """
    with _decoded(Path(path)) as image:
        return to_grey(image)


def load_layer(path: str | os.PathLike[str]) -> Image.Image:
    """Read an image with its transparency: RGBA where it has any, else RGB.

    Raises:
        ConductorError: as for :func:`load_image`.
    """
    with _decoded(Path(path)) as image:
        return to_layer(image)


@contextmanager
def _decoded(path: Path) -> Iterator[Image.Image]:
    """Open an image file, check what it would cost, and decode it; pixels are of any mode.

    Raises:
        ConductorError: there is no image, or decoding it, or what the block does with it, fails.
    """
    if not is_ordinary(path):
        raise ConductorError(f"there is no image '{path}'; check the path")
    try:
        # opened here, not by Pillow, which maps files that it opens itself and then misreads turned ones
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers and tags, which leave the pixels whole
            with Image.open(file, formats=FORMATS) as image:
                check_cost(image, file)
                turn = turn_of(image)
                image.load()
                if image.format == "TIFF" and turn is not None:  # which Pillow turns by itself
                    image.info[TURN] = turn
                yield image
    except ConductorError as error:
        raise ConductorError(f"'{path}' {error}") from error
    except Image.DecompressionBombError as error:
        counted = re.search(r"\d+", str(error))  # Pillow looks first, and keeps the number to its words
        came = f"{int(counted[0]):,}" if counted else "too many"
        raise ConductorError(
            f"'{path}' has {came} pixels, but at most {MAX_PIXELS:,} are read; make it smaller first"
        ) from error
    except UnidentifiedImageError as error:
        raise ConductorError(
            f"'{path}' is no image that can be read; expected one of {', '.join(FORMATS)}, save it as PNG"
        ) from error
    except PermissionError as error:
        raise ConductorError(f"'{path}' may not be read; change its rights") from error
    except Exception as error:  # Pillow meets damaged files with nearly every kind there is
        said = " ".join(str(error).split()) or type(error).__name__
        raise ConductorError(f"'{path}' is damaged or incomplete ({said}); save or download it again") from error


def save_png(image: Image.Image, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write ``image`` with text ``metadata`` and the mark of a generated image; whole or not at all."""
    with atomic_write(path) as file:
        image.save(file, "PNG", pnginfo=png_info(metadata or {}))
    return Path(path)


def png_info(metadata: Mapping[str, str]) -> PngInfo:
    """Return the text chunks of a PNG: ``metadata`` and the mark of a generated image."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP)
    for key, text in metadata.items():
        info.add_itxt(key, text, zip=len(text) > 1024)
    return info


def read_recipe(path: str | Path) -> str:
    """Return the JSON text that an image of ours carries.

    Raises:
        ConductorError: the file is no PNG, is damaged, or carries no recipe.
    """
    path = Path(path)
    if not is_ordinary(path):
        raise ConductorError(f"there is no image '{path}'; expected a PNG made by conductor generate")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file, formats=("PNG",)) as image:
                text = image.info.get(RECIPE_KEY)
    except Exception as error:  # as above
        raise ConductorError(f"'{path}' is no PNG that can be read; expected one made by conductor generate") from error
    if not isinstance(text, str):
        raise ConductorError(
            f"'{path}' carries no recipe; expected a PNG as conductor generate wrote it (editing drops the recipe)"
        )
    if len(text) > MAX_RECIPE_CHARACTERS:
        raise ConductorError(f"the recipe in '{path}' has {len(text):,} characters; expected at most 1,048,576")
    return str(text)
