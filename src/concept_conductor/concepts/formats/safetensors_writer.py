"""Safetensors files with the same bytes for the same content."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from concept_conductor.io.files import atomic_write

LENGTH = struct.Struct("<Q")
ALIGNMENT = 8


def write_safetensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Path:
    """Write a safetensors file; it appears whole or not at all.

    The library writes the header's metadata in another order each time, so that equal concepts had unequal hashes.

    Args:
        path: of the file.
        tensors: name -> tensor on any device, in any layout of its numbers.
        metadata: what the file says of itself; half characters, which no header can hold, are escaped.
    """
    content = save({name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)})
    start = LENGTH.size + LENGTH.unpack_from(content)[0]
    entries = json.loads(content[LENGTH.size : start])
    readable = {_readable(key): _readable(value) for key, value in sorted(metadata.items())}
    # offsets count from the header's end, which may therefore grow
    header = json.dumps({"__metadata__": readable, **entries}, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % ALIGNMENT)
    with atomic_write(path) as file:
        file.write(LENGTH.pack(len(header)))
        file.write(header)
        file.write(content[start:])
    return Path(path)


def _readable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
