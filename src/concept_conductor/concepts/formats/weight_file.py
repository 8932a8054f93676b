"""Reading weight files that nobody vouches for: what they hold, before anyone knows what it means."""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from concept_conductor.errors import ConceptFileError

MAX_FILE_BYTES = 2 * 1024**3
MAX_TENSORS = 20_000
MAX_DEPTH = 5
MAX_SIDE = 1 << 17  # no layer of any model this is for is wider

_NO_NAMES = (  # what diffusers and PEFT call their files and folders, whatever is in them
    "pytorch_lora_weights", "pytorch_custom_diffusion_weights", "learned_embeds", "learned_embeds_2", "adapter_model",
    "unet", "text_encoder", "text_encoder_2", "snapshots", "",
)  # fmt: skip
_COMMIT = re.compile(r"[0-9a-f]{40}")
_GIT_LFS_POINTER = b"version https://git-lfs"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


@dataclass(frozen=True)
class WeightFile:
    """What a file holds before anyone knows what it means.

    Attributes:
        path: where it is.
        container: "safetensors" or "torch" (a pickle, of which only tensors and plain containers are read).
        content: name -> tensor, or nested mappings of those.
        metadata: the safetensors header's own strings.
    """

    path: Path
    container: str
    content: Mapping[str, Any]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What to call its concept: the file's name or, where every file is called so, its folder's or repository's."""
        stems = (part.stem for part in (self.path, *self.path.parents))
        name = next((stem for stem in stems if stem not in _NO_NAMES and not _COMMIT.fullmatch(stem)), "concept")
        return re.sub("^models--.*--", "", name)  # so the hub's cache writes user/name

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size


def read(path: Path) -> WeightFile:
    """Read a weight file without running anything in it.

    Raises:
        ConceptFileError: missing, empty, truncated, too large, no weight file, or holding more than weights.
    """
    if not path.is_file():
        raise ConceptFileError(f"there is no concept file {path}; check the name")
    size = path.stat().st_size
    if size == 0:
        raise ConceptFileError(f"{path} is empty; get the file again")
    if size > MAX_FILE_BYTES:
        raise ConceptFileError(
            f"{path} has {size / 1024**3:.1f} GiB but a concept has a few MB and at most "
            f"{MAX_FILE_BYTES / 1024**3:.0f} GiB are read; is it a whole checkpoint?"
        )
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ConceptFileError(f"{path} cannot be read: {error.strerror}") from error
    if head.startswith(_GIT_LFS_POINTER):
        raise ConceptFileError(f"{path} is a Git LFS pointer, not the weights; run 'git lfs pull' or download the file")
    if head[8:9] == b"{":  # asked first: the length before it may begin like a pickle
        return _read_safetensors(path)
    if head.startswith((_ZIP, _PICKLE)):
        return _read_torch(path)
    raise ConceptFileError(f"{path} is neither a safetensors file nor a PyTorch .pth file; was the download complete?")


def _read_safetensors(path: Path) -> WeightFile:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            _check_count(path, len(names))
            for name in names:
                _check_shape(path, name, file.get_slice(name).get_shape())
            content = {name: file.get_tensor(name) for name in names}
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ConceptFileError(f"{path} is a damaged or truncated safetensors file ({error}); get it again") from error
    return WeightFile(path, "safetensors", content, metadata)


def _read_torch(path: Path) -> WeightFile:
    _check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how files should be written
            with torch.serialization.safe_globals([nn.ParameterDict]):  # early textual inversions; holds tensors only
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ('{named[1]}')" if named else ""
        raise ConceptFileError(
            f"{path} is damaged or holds Python objects{what} beside weights; such files could run code and are never "
            "unpickled, so ask its author for safetensors"
        ) from error
    except Exception as error:  # torch raises many kinds for damaged archives; nothing else happens in this call
        reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
        raise ConceptFileError(f"{path} is a damaged or truncated PyTorch file ({reason}); get it again") from error
    if not isinstance(content, Mapping):
        raise ConceptFileError(f"{path} holds a {type(content).__name__} where named weights were expected")
    content = {key: _tables(value) for key, value in content.items()}
    _check_tree(path, content)
    return WeightFile(path, "torch", content)


def _tables(value: Any) -> Any:
    """A ``ParameterDict`` as the plain table it is; its state was checked by nobody, so it is not asked itself."""
    return vars(value).get("_parameters") if isinstance(value, nn.ParameterDict) else value


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than they are (torch stores weights uncompressed)."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise ConceptFileError(f"{path} is a damaged or truncated PyTorch file ({error}); get it again") from error
    if unpacked > max(2 * path.stat().st_size, 1 << 20):
        raise ConceptFileError(
            f"{path} would unpack from {path.stat().st_size} to {unpacked} bytes, which no weight file does"
        )


def _check_tree(path: Path, content: Mapping[Any, Any]) -> None:
    """Every leaf under string names; tensors plain, dense and no larger than what is stored for them."""
    pending: list[tuple[str, Any, int]] = [("", content, 0)]
    tensors = 0
    while pending:
        name, value, depth = pending.pop()
        if isinstance(value, Mapping):
            if depth > MAX_DEPTH:  # a pickle's tables can contain themselves
                raise ConceptFileError(f"{path} has tables more than {MAX_DEPTH} levels deep, which no concept has")
            if not all(isinstance(key, str) for key in value):
                raise ConceptFileError(f"{path} has entries under '{name}' whose names are not text")
            pending.extend((f"{name}.{key}".removeprefix("."), entry, depth + 1) for key, entry in value.items())
            _check_count(path, len(pending))
        elif isinstance(value, Tensor):
            tensors += 1
            _check_count(path, tensors)
            _check_shape(path, name, list(value.shape))
            if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
                raise ConceptFileError(
                    f"{path} has '{name}' as a sparse, quantized or empty-shell tensor; expected a plain one"
                )
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise ConceptFileError(f"{path} claims more numbers for '{name}' than it stores; the file is malformed")


def _check_count(path: Path, count: int) -> None:
    if count > MAX_TENSORS:
        raise ConceptFileError(f"{path} has more than {MAX_TENSORS} tensors, which no concept has")


def _check_shape(path: Path, name: str, shape: list[int]) -> None:
    if len(shape) > 5 or any(side > MAX_SIDE for side in shape) or math.prod(shape) * 2 > MAX_FILE_BYTES:
        raise ConceptFileError(f"{path} has '{name}' in the absurd shape {tuple(shape)}; the file is malformed")


def parsed_json(path: Path, what: str, text: str) -> Any:
    """JSON out of a file's metadata."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConceptFileError(f"{path} has damaged metadata: '{what}' is no JSON") from error
