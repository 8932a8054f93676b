"""The training images: a folder of 1 to 30 images, with captions and masks where there are some.

``IMAGES/stem.jpg`` (or png, webp, bmp) is an image, ``IMAGES/stem.txt`` its caption (first line), and
``MASKS/stem.png`` its mask, MASKS being ``IMAGES/masks`` unless another folder is given: that is how images and
masks are told apart.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image

from concept_conductor.errors import ConductorError
from concept_conductor.io.images import load_image, load_mask
from concept_conductor.training.captions import TOKEN

MAX_IMAGES = 30
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CAPTION_SUFFIX = ".txt"
MASKS_FOLDER = "masks"


@dataclass(frozen=True)
class Example:
    """One training image.

    Attributes:
        name: the file's stem.
        image: RGB.
        mask: of the subject, L, of the image's size; None where there is none.
        caption: with ``<TOK>`` in it; None where there is none.
    """

    name: str
    image: Image.Image
    mask: Image.Image | None = None
    caption: str | None = None

    def fingerprint(self) -> str:
        """Return a hash of all that training sees of it."""
        digest = sha256(repr((self.name, self.caption, self.image.size)).encode())
        for image in (self.image, self.mask):
            digest.update(b"none" if image is None else image.tobytes())
        return digest.hexdigest()


def read_folder(images: Path, masks: Path | None = None) -> list[Example]:
    """Read all examples of a folder, in the order of their names.

    Raises:
        ConductorError: no images or more than 30, a file that is no image, a mask or caption that belongs to no
            image or does not fit it.
    """
    if not os.path.isdir(images):
        raise ConductorError(f"there is no folder of training images {images}; 'images' must name one")
    if masks is not None and not os.path.isdir(masks):
        raise ConductorError(f"there is no folder of masks {masks}; leave 'masks' out or name one")
    if masks is None and (images / MASKS_FOLDER).is_dir():
        masks = images / MASKS_FOLDER
    files = _by_stem(images, IMAGE_SUFFIXES)
    if not 1 <= len(files) <= MAX_IMAGES:
        raise ConductorError(
            f"{images} holds {len(files)} images ({', '.join(s.removeprefix('.') for s in IMAGE_SUFFIXES)}); "
            f"a concept is trained on 1 to {MAX_IMAGES}"
        )
    captions = _by_stem(images, (CAPTION_SUFFIX,))
    outlines = {} if masks is None else _by_stem(masks, IMAGE_SUFFIXES)
    for kind, found in (("caption", captions), ("mask", outlines)):
        if orphans := sorted(set(found) - set(files)):
            raise ConductorError(f"the {kind} {found[orphans[0]]} belongs to no image; name it after one, or remove it")
    examples = []
    for stem, path in sorted(files.items()):
        image = load_image(path)
        mask = _mask(outlines[stem], image) if stem in outlines else None
        caption = _caption(captions[stem]) if stem in captions else None
        examples.append(Example(stem, image, mask, caption))
    return examples


def _mask(path: Path, image: Image.Image) -> Image.Image:
    mask = load_mask(path)
    if abs(mask.width / mask.height / (image.width / image.height) - 1) > 0.02:
        raise ConductorError(
            f"the mask {path} has {mask.width}x{mask.height} pixels but its image {image.width}x{image.height}; "
            "they must have the same shape"
        )
    mask = mask.resize(image.size).point(lambda value: 255 * (value > 127))
    if mask.getextrema()[1] == 0:
        raise ConductorError(f"the mask {path} is empty; draw the subject in white on black, or remove the file")
    return mask


def _caption(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConductorError(f"the caption {path} is no readable text ({error}); save it as UTF-8") from error
    if not lines or TOKEN not in lines[0]:
        first = lines[0] if lines else ""
        raise ConductorError(
            f"the first line of the caption {path} is '{first}', where {TOKEN} was expected for the subject, "
            f"as in 'a {TOKEN} on the beach'"
        )
    return " ".join(lines[0].split())


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Find files of some suffixes by stem; hidden ones are no one's."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.is_file():
            continue
        if path.stem in found:
            raise ConductorError(f"{found[path.stem]} and {path} have the same stem; rename one")
        found[path.stem] = path
    return found
