"""Named tensors on disk: those of a kind (model, optimizer, average) in one safetensors file, or, of many, in several.

Files are cut by bytes and not by ranks, so whoever holds the tensors, and however they are divided, writes the same.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import final

from safetensors.torch import save_file
from torch import Tensor

from thetahat.core import store
from thetahat.core.errors import FolderError, ModelError
from thetahat.distribution import heartbeat
from thetahat.distribution.pieces import whole
from thetahat.distribution.world import ALONE, World
from thetahat.interop.files import headers, opened
from thetahat.run.folder.files import file_name, paths_of

LARGEST = 2 * 2**30  # bytes of the tensors in a file; a tensor of more has a file of its own
_RENAMED = {"encoder_blocks.": "encoder.blocks.", "encoder_norm.": "encoder.norm."}  # in checkpoints of 0.1


@final
class Made(Mapping[str, Tensor]):
    """Tensors that are made, or read, each time one is asked for, so that they need not be in memory together."""

    def __init__(self, makes: Mapping[str, Callable[[], Tensor]]) -> None:
        self._makes = makes

    def __getitem__(self, name: str) -> Tensor:
        return self._makes[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makes)

    def __len__(self) -> int:
        return len(self._makes)


def load_tensors(path: Path) -> Mapping[str, Tensor]:
    """What lies at FOLDER/NAME.safetensors, in one file or in several, by the names of today.

    A tensor is mapped when it is asked for: of its rows only those that are then used are read. Raises ModelError for
    a file that is none of tensors, or cannot be read.
    """
    if not (paths := paths_of(path)):
        raise ModelError(f"{path} cannot be read: it is not there")
    return Made({_today(name): partial(_read, one.file, name) for name, one in headers(paths).items()})


def _read(path: Path, name: str) -> Tensor:
    with opened(path) as file:
        return file.get_tensor(name)


def _today(name: str) -> str:
    for old, new in _RENAMED.items():
        name = name.replace(old, new)
    return name


def write_tensors(
    kinds: Mapping[str, Mapping[str, Tensor]], folder: Path, world: World = ALONE
) -> dict[str, store.Entry]:
    """Writes the tensors of each kind into `folder`, durably; on the first rank the manifest's entries of all files.

    Rank k of N writes the files k, k + N, ..., and holds the tensors of one of them at a time. Of tensors in pieces it
    gathers those of its file, one after another; the other ranks take part in that and keep nothing. All ranks call
    it; where one fails, all raise.
    """
    files = list(_files(kinds))
    entries: dict[str, store.Entry] = {}
    error: Exception | None = None
    for first in range(0, len(files), world.size):
        heartbeat.moves()
        mine: dict[str, Tensor] = {}
        for rank, (_, names, tensors) in enumerate(files[first : first + world.size]):
            for name in names:
                tensor = whole(tensors[name].detach())
                if rank == world.rank and error is None:
                    mine[name] = tensor.cpu().contiguous()
        if mine:
            path = folder / files[first + world.rank][0]
            try:
                if not folder.is_dir():
                    what = f"rank {world.rank} does not see {folder}, which the first rank has made"
                    raise FolderError(what, cure="--out on a file system that all nodes share, under the same path")
                save_file(mine, path)
                entries[path.name] = store.settle(path)
            except Exception as raised:  # noqa: BLE001 - raised below, when all ranks know: they wait in the next gather
                error = raised
    world.raise_together(error)
    return {name: entry for some in world.gather_json(entries) for name, entry in some.items()}


def _files(kinds: Mapping[str, Mapping[str, Tensor]]) -> Iterator[tuple[str, Sequence[str], Mapping[str, Tensor]]]:
    """The name of each file, and of the tensors in it, with all of its kind."""
    for kind, tensors in kinds.items():
        files = cut({name: one.numel() * one.element_size() for name, one in tensors.items()}, LARGEST)
        for number, names in enumerate(files, start=1):
            yield file_name(kind, number, len(files)), names, tensors


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
