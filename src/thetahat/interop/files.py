"""The files of weights in a folder: one, or shards that an index lists. Only headers are read until tensors are."""

import json
import math
from collections.abc import Container, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import safetensors
import torch
from torch import Tensor

from thetahat.core.errors import ModelError
from thetahat.core.store import reading
from thetahat.interop.made import DTYPES

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_BLOCK_BYTES = 64 * 2**20
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_OTHERS = (".h5", ".msgpack", ".onnx")


@final
@dataclass(frozen=True)
class Stored:
    """Where a tensor is, as the header of its file says."""

    file: Path
    name: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it


def stored_in(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder, by its name in the file."""
    return headers(_files(folder))


def headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """Every tensor of some files, by its name in the file."""
    found: dict[str, Stored] = {}
    for path in paths:
        with opened(path) as file:
            for name in list(file.keys()):
                if name in found:
                    raise ModelError(f"{name} is in {found[name].file} and in {path}", cure="remove one of them")
                view = file.get_slice(name)
                found[name] = Stored(path, name, tuple(view.get_shape()), view.get_dtype())
    return found


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """A file of tensors, mapped into memory, so that what is not asked for is not read."""
    try:
        with reading(path), safetensors.safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"{path} is no whole file of tensors: {error}",
            cure="copy or download it again; a part of it is missing or damaged",
        ) from error


def read(stored: Stored) -> Tensor:
    """One tensor, mapped: its file stays so as long as it lives, and of its rows only those that are used are read."""
    with opened(stored.file) as file:
        return file.get_tensor(stored.name)


def meta(stored: Stored) -> Tensor:
    """A tensor of this shape and dtype, on `meta`."""
    if stored.dtype not in DTYPES:
        raise ModelError(f"{stored.file}: {stored.name} is in {stored.dtype}", allowed=", ".join(DTYPES))
    return torch.empty(stored.shape, dtype=DTYPES[stored.dtype], device="meta")


def tensors(stored: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its key."""
    for key, _, tensor in blocks(stored, ()):
        yield key, tensor


def blocks(stored: Mapping[str, Stored], cut: Container[str]) -> Iterator[tuple[str, slice, Tensor]]:
    """Each tensor with its key, file by file; those in `cut` a block of rows at a time, and which rows these are.

    What was read of a file that is mapped counts as memory until the file is closed, so it is opened anew in between.
    """
    by_file: dict[Path, list[tuple[str, slice]]] = {}
    for key, one in stored.items():
        rows = _rows(one) if key in cut else [slice(None)]
        by_file.setdefault(one.file, []).extend((key, some) for some in rows)
    for path, wanted in by_file.items():
        while wanted:
            with opened(path) as file:
                size = 0
                while wanted and size < _BLOCK_BYTES:
                    key, rows = wanted.pop(0)
                    name = stored[key].name
                    tensor = file.get_tensor(name) if rows == slice(None) else file.get_slice(name)[rows]
                    size += tensor.nbytes
                    yield key, rows, tensor
                    del tensor


def _rows(stored: Stored) -> list[slice]:
    """Blocks of rows of at most `_BLOCK_BYTES`, or of one row."""
    number = stored.shape[0]
    row_bytes = 8 * math.prod(stored.shape[1:])
    size = max(_BLOCK_BYTES // row_bytes, 1)
    return [slice(start, min(start + size, number)) for start in range(0, number, size)]


def _files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [_inside(folder, WEIGHTS, "the folder")]
    if not (folder / INDEX).exists():
        raise _without_weights(folder)
    index = read_object(folder / INDEX)
    named = index.get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(file, str) for file in named.values()):
        raise ModelError(f"{folder / INDEX} has no weight_map, which says in which file a tensor is")
    named = cast("dict[str, str]", named)
    paths = {name: _inside(folder, name, INDEX) for name in dict.fromkeys(named.values())}
    for name, path in paths.items():
        with opened(path) as file:
            listed = {tensor for tensor, of in named.items() if of == name}
            if absent := sorted(listed - set(file.keys())):
                raise ModelError(f"{folder / INDEX} says that {absent[0]} is in {name}, and it is not")
    return list(paths.values())


def _inside(folder: Path, name: str, who: str) -> Path:
    """The path of a file that belongs to a folder. Links may lead into the store of the hub's cache."""
    path = folder / name
    if name in {"", ".", ".."} or Path(name).name != name:
        raise ModelError(f"{who} names {name!r}, which is not a file of {folder}", allowed="names without a folder")
    if not path.is_file():
        raise ModelError(
            f"{who} names {name}, and {folder} has no such file", cure="copy or download the folder again, whole"
        )
    real, home = path.resolve(), folder.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(real.is_relative_to(each) for each in homes):
        raise ModelError(f"{path} is a link to {real}, which is outside the folder", cure=f"cp {real} {folder}/")
    return path


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file."""
    try:
        with reading(path):
            value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return cast("dict[str, Any]", value)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8."""
    try:
        with reading(path):
            return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not text in UTF-8: {error}") from error


def is_of_weights(name: str) -> bool:
    """Whether a file of this name has weights, or says where they are, whether they are read here or not."""
    return name.endswith((".safetensors", INDEX, ".gguf", *_PICKLES, *_OTHERS)) or name == "adapter_config.json"


def _without_weights(folder: Path) -> ModelError:
    with reading(folder):
        names = sorted(path.name for path in folder.iterdir())
    allowed = f"{WEIGHTS}, or shards with {INDEX}"
    if pickled := [name for name in names if name.endswith(_PICKLES)]:
        return ModelError(
            f"{folder} has its weights in {pickled[0]} only, a pickle: reading one can run code, so it is never read",
            allowed=allowed,
            cure="where you trust it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW), "
            "with transformers, writes safetensors",
        )
    if gguf := [name for name in names if name.endswith(".gguf")]:
        return gguf_refused(folder / gguf[0])
    if other := [name for name in names if name.endswith(_OTHERS)]:
        return ModelError(f"{folder} has its weights in {other[0]} only, which is not read", allowed=allowed)
    return ModelError(f"{folder} has no weights", allowed=allowed)


def gguf_refused(path: Path) -> ModelError:
    """The error for a file of llama.cpp."""
    return ModelError(
        f"{path} is a GGUF file, whose weights are mostly quantized, and is not read",
        allowed="a folder with config.json and safetensors, from which it was made",
    )
