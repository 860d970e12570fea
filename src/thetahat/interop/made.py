"""Tensors that are made when they are asked for, and their files, written one tensor after another."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, final

import torch
from torch import Tensor

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
"""By the names that safetensors has for them. Of a file's tensors it lays those of the last of these first."""

_PLACES = {dtype: (-place, name) for place, (name, dtype) in enumerate(DTYPES.items())}


@final
class Made(Mapping[str, Tensor]):
    """Tensors that are made, or read, each time one is asked for, so that they need not be in memory together.

    `metas` are on `meta`: their shapes and dtypes, which are known before any is made.
    """

    def __init__(self, makes: Mapping[str, Callable[[], Tensor]], metas: Mapping[str, Tensor]) -> None:
        self._makes = makes
        self.metas = metas

    def __getitem__(self, name: str) -> Tensor:
        return self._makes[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makes)

    def __len__(self) -> int:
        return len(self._makes)


def metas(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors of the same shapes and dtypes, of which none is made."""
    return tensors.metas if isinstance(tensors, Made) else tensors


def header(described: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> tuple[bytes, list[str]]:
    """The first bytes of a file of tensors of these shapes and dtypes, and the order in which their values follow.

    As the safetensors library writes it, to the byte: wide dtypes first, names in order, padded to 8 bytes. The library
    itself takes all tensors of a file at once.
    """
    names = sorted(described, key=lambda name: (_PLACES[described[name].dtype], name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + _num_bytes(described[name])
        shape = list(described[name].shape)
        entries[name] = {"dtype": _PLACES[described[name].dtype][1], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def write_values(file: BinaryIO, tensor: Tensor, like: Tensor) -> None:
    """Writes the values of a tensor that the header describes as `like`."""
    assert (tensor.shape, tensor.dtype) == (like.shape, like.dtype)
    file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Writes a file of tensors, of which one is in memory at a time."""
    described = metas(tensors)
    first, names = header(described, metadata)
    with path.open("wb") as file:
        file.write(first)
        for name in names:
            write_values(file, tensors[name], described[name])


def _num_bytes(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize
