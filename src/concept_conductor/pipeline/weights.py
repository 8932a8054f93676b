"""Weight files of models, looked at before a number is read, and put into networks whole or not at all."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from concept_conductor.backbones.model_files import first_line
from concept_conductor.errors import ConductorError
from concept_conductor.io.ordinary import is_ordinary

MAX_TENSORS = 50_000
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
"""Number types of weights, as safetensors calls them."""

TEXT_MODEL = re.compile(r"(^|\.)(?:text_model|vision_model)(?=\.)")
"""Wrappers that transformers puts around a network or not, by its version."""
OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""How the VAE's attention was spelt before diffusers 0.15."""
POSITIONS = "position_ids"
"""Counted up from 0; older files hold them."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        file: where.
        shape, dtype: as its header says; the dtype is None for one that no weights have.
        read: returns it.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    read: Callable[[], Tensor] = field(repr=False)


Stored = Mapping[str, StoredTensor]


@contextmanager
def open_weights(files: Iterable[Path]) -> Iterator[dict[str, StoredTensor]]:
    """Open weight files, whose tensors are read later, within the block.

    Args:
        files: the parts of one whole; safetensors, or pickles of which only tensors are read.

    Raises:
        ConductorError: one is missing, damaged, or no weight file, or a tensor is in two.
    """
    found: dict[str, StoredTensor] = {}
    with ExitStack() as stack:
        for file in files:
            tensors, _ = stack.enter_context(open_file(file))
            if twice := found.keys() & tensors.keys():
                raise ConductorError(f"'{file}' and another file both hold '{min(twice)}'; get the model again")
            found |= tensors
        yield found


@contextmanager
def open_file(file: Path) -> Iterator[tuple[dict[str, StoredTensor], dict[str, Any]]]:
    """Open one weight file: its tensors, and what it says beside them.

    Raises:
        ConductorError: as for :func:`open_weights`.
    """
    if not is_ordinary(file):
        raise ConductorError(f"'{file}' is no ordinary file; get the model again")
    if not is_safetensors(file):
        content = unpickled(file)
        tensors = {name: _in_memory(file, value) for name, value in content.items() if isinstance(value, Tensor)}
        yield tensors, {name: value for name, value in content.items() if isinstance(value, str | int | float)}
        return
    try:
        opened = safe_open(file, framework="pt")
        names = list(opened.keys())
        tensors = {name: _in_file(file, opened, name) for name in names[:MAX_TENSORS]}
        facts = dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise damaged(file, error) from error
    if len(names) > MAX_TENSORS:
        raise ConductorError(f"'{file}' holds {len(names):,} tensors; no model has more than {MAX_TENSORS:,}")
    with opened:
        yield tensors, facts


def is_safetensors(file: Path) -> bool:
    """Return whether a file begins as safetensors do: with the length of a JSON object."""
    with file.open("rb") as opened:
        return opened.read(9)[8:] == b"{"


def _in_file(file: Path, opened: Any, name: str) -> StoredTensor:
    header = opened.get_slice(name)

    def read() -> Tensor:
        try:
            tensor: Tensor = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise damaged(file, error) from error
        return tensor

    return StoredTensor(file, tuple(header.get_shape()), DTYPES.get(header.get_dtype()), read)


def _in_memory(file: Path, tensor: Tensor) -> StoredTensor:
    plain = tensor.layout == torch.strided and not tensor.is_quantized and tensor.device.type == "cpu"
    stored = plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    dtype = tensor.dtype if stored and tensor.dtype in DTYPES.values() else None
    return StoredTensor(file, tuple(tensor.shape), dtype, lambda: tensor.detach().clone())  # not a view of the file


def unpickled(file: Path) -> dict[str, Any]:
    """Read a pickle's tensors and plain values; nothing in it is run.

    A table called ``state_dict`` in it takes its place; what stands beside that keeps its name where it is free.

    Raises:
        ConductorError: it is damaged, holds anything else, or would unpack to more than it is.
    """
    _check_archive(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how files should be written
            content = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConductorError(
            f"'{file}' could not be read: it is damaged, or holds more than weights, which is never unpickled; get it "
            "again, as safetensors"
        ) from error
    except Exception as error:  # torch raises many kinds for damaged archives; nothing else happens in this call
        raise damaged(file, error) from error
    for _ in range(2):
        if isinstance(content, Mapping) and isinstance(inner := content.get("state_dict"), Mapping):
            content = {**content, **inner}
            del content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        raise ConductorError(f"'{file}' holds a {type(content).__name__} without names; expected named weights")
    if len(content) > MAX_TENSORS:
        raise ConductorError(f"'{file}' holds {len(content)} entries; no model has more than {MAX_TENSORS}")
    return dict(content)


def _check_archive(file: Path) -> None:
    """Raise ConductorError where an archive unpacks to more than it is; torch stores weights uncompressed."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error) as error:
        raise damaged(file, error) from error
    if size > max(2 * file.stat().st_size, 1 << 20):
        raise ConductorError(f"'{file}' would unpack to {size:,} bytes, more than it is; get it again")


def damaged(file: Path, error: Exception) -> ConductorError:
    """Return the sentence about a file that cannot be read."""
    return ConductorError(f"'{file}' could not be read: it is damaged ({first_line(error)}); get it again")


def match(network: nn.Module, stored: Stored, what: str) -> dict[str, StoredTensor]:
    """Return each of a network's tensors in a folder's weight files, by the network's own name.

    Args:
        network: without data.
        stored: what the files hold.
        what: the network is, for messages ("the U-Net of the model 'x'").

    Raises:
        ConductorError: a tensor is missing, over, named twice, or of another shape or number type.
    """
    expected = {TEXT_MODEL.sub(r"\1", name).lstrip("."): name for name in network.state_dict()}
    found: dict[str, StoredTensor] = {}
    over = []
    for name, tensor in stored.items():
        plain = TEXT_MODEL.sub(r"\1", name).lstrip(".")
        if plain.rpartition(".")[2] == POSITIONS:
            continue
        if plain not in expected and ".attentions." in plain:
            for old, new in OLD_ATTENTION.items():
                plain = plain.replace(old, new)
        own = expected.get(plain)
        if own is None:
            over.append(name)
        elif own in found:
            raise ConductorError(f"{what} has '{own}' twice in its files, under two names; get the model again")
        else:
            found[own] = tensor
    check_all(network, found, over, what)
    return found


def check_all(network: nn.Module, found: Stored, over: list[str], what: str) -> None:
    """Raise ConductorError unless ``found`` is all that a network needs, in its shapes, and nothing is over."""
    own = network.state_dict()
    if missing := [name for name in own if name not in found]:
        raise ConductorError(
            f"{what} lacks {counted(missing)}; expected all weights that its configuration describes, get it again"
        )
    if over:
        raise ConductorError(
            f"{what} has {counted(over)} that its configuration has no place for; expected its own weights alone"
        )
    for name, tensor in found.items():
        shape = tuple(own[name].shape)
        if tensor.dtype is None:
            raise ConductorError(
                f"{what} has '{name}' as numbers that are no weights (quantized, whole or sparse); expected float32, "
                "float16, bfloat16 or float8"
            )
        if tensor.shape != shape:
            raise ConductorError(
                f"{what} has '{name}' in the shape {tensor.shape}, but its configuration describes {shape}; expected "
                "weights and configuration of one model"
            )


def counted(names: list[str]) -> str:
    """Return how many weights these are, and the first of them."""
    return f"the weight '{names[0]}'" if len(names) == 1 else f"{len(names)} weights, the first '{names[0]}',"


def fill(network: nn.Module, found: Stored, dtype: torch.dtype) -> None:
    """Put tensors into a network without data, which is then on the CPU.

    Args:
        network: on the ``meta`` device.
        found: every tensor of it, checked.
        dtype: to keep them in.
    """
    state = {name: tensor.read().to(dtype).contiguous() for name, tensor in found.items()}
    network.load_state_dict(state, assign=True)
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta:  # what is in no file: positions, counted up
            module, _, own = name.rpartition(".")
            assert own == POSITIONS, name
            setattr(network.get_submodule(module), own, torch.arange(buffer.shape[-1]).expand(buffer.shape))
    network.eval()
