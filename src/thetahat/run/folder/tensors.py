"""Named tensors on disk: those of a kind (model, optimizer, average) in one safetensors file, or, of many, in several.

Files are cut by bytes and not by ranks, so whoever holds the tensors, and however they are divided, writes the same.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from thetahat.core import store
from thetahat.core.errors import FolderError, ModelError, ThetahatError
from thetahat.distribution import heartbeat
from thetahat.distribution.world import ALONE, World
from thetahat.interop.files import headers, meta, read
from thetahat.interop.made import Made, header, metas, write_values
from thetahat.run.folder.files import file_name, paths_of

LARGEST = 2 * 2**30  # bytes of the tensors in a file; a tensor of more has a file of its own
_RENAMED = {"encoder_blocks.": "encoder.blocks.", "encoder_norm.": "encoder.norm."}  # in checkpoints of 0.1


def load_tensors(path: Path) -> Mapping[str, Tensor]:
    """What lies at FOLDER/NAME.safetensors, in one file or in several, by the names of today.

    A tensor is mapped when it is asked for: of its rows only those that are then used are read. Raises ModelError for
    a file that is none of tensors, or cannot be read.
    """
    if not (paths := paths_of(path)):
        raise ModelError(f"{path} cannot be read: it is not there")
    stored = {_today(name): one for name, one in headers(paths).items()}
    return Made(
        {name: partial(read, one) for name, one in stored.items()}, {name: meta(one) for name, one in stored.items()}
    )


def _today(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def write_tensors(
    kinds: Mapping[str, Mapping[str, Tensor]], folder: Path, world: World = ALONE
) -> dict[str, store.Entry]:
    """Writes the tensors of each kind into `folder`, durably; on the first rank the manifest's entries of all files.

    Rank k of N writes the files k, k + N, ..., and holds one tensor at a time. Of tensors in pieces it gathers those of
    its files, one after another; the other ranks take part in that and keep nothing. All ranks call it; where one
    fails, all raise.
    """
    files = list(_files(kinds, world))
    entries: dict[str, store.Entry] = {}
    error: Exception | None = None
    for first in range(0, len(files), world.size):
        some = files[first : first + world.size]
        mine = _gathered(some, world)
        try:
            if world.rank < len(some) and error is None:
                entries |= _write(some[world.rank], folder, world.rank, mine)
        except (OSError, ThetahatError) as raised:
            error = raised
        for _ in mine:  # what is not written is gathered all the same, since others wait for it
            pass
    world.raise_together(error)
    return {name: entry for some in world.gather_json(entries) for name, entry in some.items()}


class _File(NamedTuple):
    """A file that is to be written."""

    name: str
    header: bytes  # its first bytes
    order: Sequence[str]  # of its tensors
    tensors: Mapping[str, Tensor]  # all of its kind
    homes: Mapping[str, int]  # the stage of a pipeline that has each of them


def _gathered(files: Sequence[_File], world: World) -> Iterator[Tensor]:
    """The tensors of a rank's file, in its order; in between all ranks gather one of each file."""
    for names in zip_longest(*(file.order for file in files)):
        heartbeat.moves()
        if (mine := _one_of_each(files, names, world)) is not None:
            yield mine
        del mine


def _one_of_each(files: Sequence[_File], names: Sequence[str | None], world: World) -> Tensor | None:
    mine = None
    for number, (file, name) in enumerate(zip(files, names, strict=True)):
        if name is not None:
            tensor = world.whole(file.tensors[name], file.homes[name])
            mine = tensor if number == world.rank else mine
    return mine


def _write(file: _File, folder: Path, rank: int, tensors: Iterator[Tensor]) -> dict[str, store.Entry]:
    """Writes a file durably; what a manifest says of it, by its name."""
    if not folder.is_dir():
        what = f"rank {rank} does not see {folder}, which the first rank has made"
        raise FolderError(what, cure="--out on a file system that all nodes share, under the same path")
    described = metas(file.tensors)
    path = folder / file.name
    with path.open("wb") as opened:
        opened.write(file.header)
        for name in file.order:
            write_values(opened, next(tensors), described[name])
    return {path.name: store.settle(path)}


def _files(kinds: Mapping[str, Mapping[str, Tensor]], world: World) -> Iterator[_File]:
    for kind, tensors in kinds.items():
        described, homes = metas(tensors), world.homes(tensors)
        files = cut({name: one.numel() * one.element_size() for name, one in described.items()}, LARGEST)
        for number, names in enumerate(files, start=1):
            first, order = header({name: described[name] for name in names})
            yield _File(file_name(kind, number, len(files)), first, order, tensors, homes)


def cut(num_bytes: Mapping[str, int], largest: int) -> list[list[str]]:
    """Names into files, in their order, each of at most `largest` bytes or of one tensor; at least one file."""
    files: list[list[str]] = [[]]
    size = 0
    for name, number in sorted(num_bytes.items()):
        if files[-1] and size + number > largest:
            files.append([])
            size = 0
        files[-1].append(name)
        size += number
    return files
