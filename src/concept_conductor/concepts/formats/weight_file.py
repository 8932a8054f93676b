"""Reading weight files that nobody vouches for: what they hold, before anyone knows what it means."""

from __future__ import annotations

import json
import math
import pickle
import re
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
from concept_conductor.io.ordinary import is_ordinary

MAX_FILE_BYTES = 2 * 1024**3
MAX_TENSORS = 20_000
MAX_DEPTH = 5
MAX_SIDE = 1 << 17  # no layer of any model this is for is wider
MAX_NAME = 300  # characters; layers of the largest models have 100
MAX_JSON = 1 << 22

SETTINGS = "lora_adapter_metadata"
"""Under this name diffusers keeps PEFT's settings in a header."""

_NO_NAMES = (  # what diffusers and PEFT call their files and folders, whatever is in them
    "pytorch_lora_weights", "pytorch_custom_diffusion_weights", "learned_embeds", "learned_embeds_2", "adapter_model",
    "unet", "text_encoder", "text_encoder_2", "snapshots", "",
)  # fmt: skip
_COMMIT = re.compile(r"[0-9a-f]{40}")
_GIT_LFS_POINTER = b"version https://git-lfs"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
#: Number types that are read; those of eight bits are for storage only.
_EIGHT_BITS = {torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz}
_NUMBERS = _EIGHT_BITS | {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
}
_SAFETENSORS_NUMBERS = {
    *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I64", "I32", "I16", "I8", "U8", "BOOL"),
}


@dataclass(frozen=True)
class WeightFile:
    """What a file holds before anyone knows what it means.

    Attributes:
        path: where it is.
        container: "safetensors" or "torch" (a pickle, of which only tensors and plain containers are read).
        content: name -> tensor, or nested mappings of those; numbers of eight bits are widened to half precision, which
            holds all of them.
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
        name = re.sub("^models--.*--", "", name)  # so the hub's cache writes user/name
        return name.encode("utf-8", "backslashreplace").decode()  # a file system allows what no text does

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size


def read(path: Path) -> WeightFile:
    """Read a weight file without running anything in it.

    Raises:
        ConceptFileError: missing, empty, truncated, too large, no weight file, or holding more than weights.
    """
    if not is_ordinary(path):
        raise ConceptFileError(f"there is no concept file {path}; expected an ordinary file, check the name")
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
                _check_name(path, name)
                stored = file.get_slice(name)
                _check_shape(path, name, stored.get_shape())
                if stored.get_dtype() not in _SAFETENSORS_NUMBERS:
                    raise ConceptFileError(_no_number_type(path, name, stored.get_dtype()))
            content = {name: _widened(file.get_tensor(name)) for name in names}
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
        raise _damaged(path, reason) from error
    if not isinstance(content, dict):
        raise ConceptFileError(f"{path} holds a {type(content).__name__} where named weights were expected")
    return WeightFile(path, "torch", _plain(path, content))


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than they are (torch stores weights uncompressed)."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # Python's reader raises many kinds for damaged archives
        raise _damaged(path, str(error) or type(error).__name__) from error
    if unpacked > max(2 * path.stat().st_size, 1 << 20):
        raise ConceptFileError(
            f"{path} would unpack from {path.stat().st_size} to {unpacked} bytes, which no weight file does"
        )


def _damaged(path: Path, reason: str) -> ConceptFileError:
    return ConceptFileError(f"{path} is a damaged or truncated PyTorch file ({reason:.200}); get it again")


def _plain(path: Path, content: dict[Any, Any]) -> dict[str, Any]:
    """Return the content of a pickle as plain tables of plain tensors, checked.

    Nothing is asked of the objects themselves: a pickle may hang attributes on them that hide their methods.
    """
    plain: dict[str, Any] = {}
    pending: list[tuple[str, dict[Any, Any], dict[str, Any], int]] = [("", content, plain, 0)]
    count = 0
    while pending:
        where, table, into, depth = pending.pop()
        if depth > MAX_DEPTH:  # a pickle's tables can contain themselves
            raise ConceptFileError(f"{path} has tables more than {MAX_DEPTH} levels deep, which no concept has")
        for key, value in dict.items(table):
            if type(key) is not str:
                raise ConceptFileError(f"{path} has entries under '{where}' whose names are not text")
            count += 1
            _check_count(path, count)
            name = f"{where}.{key}".removeprefix(".")
            _check_name(path, name)
            if isinstance(value, nn.ParameterDict):  # its state was checked by nobody, so it is not asked itself
                value = vars(value).get("_parameters")
            if isinstance(value, dict):
                into[key] = {}
                pending.append((name, value, into[key], depth + 1))
            else:
                into[key] = _tensor(path, name, value) if isinstance(value, Tensor) else value
    return plain


def _tensor(path: Path, name: str, value: Tensor) -> Tensor:
    """Return a tensor of a pickle as a plain one that holds no more numbers than are stored for it."""
    if type(value) not in (Tensor, nn.Parameter) or value.is_nested:
        raise ConceptFileError(f"{path} has '{name}' as a tensor of tensors, or of a kind of its own; expected numbers")
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ConceptFileError(
            f"{path} has '{name}' as a sparse, quantized or empty-shell tensor; expected a plain one"
        )
    value = Tensor.detach(value)  # without what a pickle has hung on it
    _check_shape(path, name, list(value.shape))
    if value.dtype not in _NUMBERS:
        raise ConceptFileError(_no_number_type(path, name, str(value.dtype).removeprefix("torch.")))
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ConceptFileError(f"{path} claims more numbers for '{name}' than it stores; the file is malformed")
    return _widened(value.resolve_neg())


def _widened(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.dtype in _EIGHT_BITS else tensor


def _no_number_type(path: Path, name: str, kind: str) -> str:
    return f"{path} stores '{name}' as {kind}, which cannot be computed with; expected numbers such as float16"


def _check_name(path: Path, name: str) -> None:
    if len(name) > MAX_NAME or not name.isprintable():
        raise ConceptFileError(
            f"{path} has a tensor called {name[:40]!r}, a name of {len(name)} characters; expected at most {MAX_NAME}, "
            "all of them printable"
        )


def _check_count(path: Path, count: int) -> None:
    if count > MAX_TENSORS:
        raise ConceptFileError(f"{path} has more than {MAX_TENSORS} tensors, which no concept has")


def _check_shape(path: Path, name: str, shape: list[int]) -> None:
    if len(shape) > 5 or any(side > MAX_SIDE for side in shape) or math.prod(shape) * 2 > MAX_FILE_BYTES:
        raise ConceptFileError(f"{path} has '{name}' in the absurd shape {tuple(shape)}; the file is malformed")


def parsed_json(path: Path, what: str, text: str) -> Any:
    """Return what JSON says that a stranger has written: no more than 4 MiB, not too deep, no numbers without end.

    Raises:
        ConceptFileError: it is no such JSON.
    """
    try:
        if len(text) > MAX_JSON:
            raise ValueError("too long")
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConceptFileError(f"{path} has damaged metadata: '{what}' is no JSON") from error
