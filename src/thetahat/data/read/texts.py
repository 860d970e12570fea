"""The records of files: parsed once, then read from a compact copy in the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from thetahat.core.errors import DataError
from thetahat.data.config import OnBadRecord, ReadOptions
from thetahat.data.read.bad import BadRecords, tell_skipped
from thetahat.data.read.cache import cache_folder
from thetahat.data.read.files import find_files, label_files, say_once
from thetahat.data.read.manifest import digests_of
from thetahat.data.read.named.kind import holds_objects, kind_of_file
from thetahat.data.read.opening import opening
from thetahat.data.read.record import Record
from thetahat.data.read.shards.kept import read_column
from thetahat.data.read.shards.names import Run, own_suffixes, read_runs, with_own_id
from thetahat.data.read.shards.parse import PLAIN, RecordFile
from thetahat.data.read.shards.shelf import Place, Shelf, digest_of
from thetahat.data.read.table.rows import TABLES

_CHUNK = 1 << 20
_NONE = np.zeros(0, np.int64)


def read_records(
    specs: str | Sequence[str], options: ReadOptions = PLAIN, on_bad: OnBadRecord = "error"
) -> Iterator[Record]:
    """Every record of files, folders or globs, in order, each with an id of its own; no file counts twice."""
    return _streamed(find_files(specs), options, on_bad)


def _streamed(files: Sequence[Path], options: ReadOptions, on_bad: OnBadRecord) -> Iterator[Record]:
    bad = BadRecords(on_bad)
    yield from _parse(files, options, bad)
    tell_skipped(*bad.lines)


def _parse(files: Sequence[Path], options: ReadOptions, bad: BadRecords) -> Iterator[Record]:
    taken: dict[str, int] = {}
    for path, label in zip(files, label_files(files), strict=True):
        is_empty, num_bad, file = True, len(bad), RecordFile(path, label, options)
        for number, fields in file.objects(bad):
            is_empty = False
            try:
                records = file.records(number, fields)
            except DataError as error:
                bad(error)
            else:
                yield from (with_own_id(record, taken) for record in records)
        if is_empty and len(bad) == num_bad:
            check_empty(path, is_alone=len(files) == 1)
    bad.settle()


@dataclass(frozen=True, slots=True)
class Index:
    """What a division asks of all records, one element a record."""

    sizes: NDArray[np.int64]  # bytes of all that is in it
    keys: NDArray[np.uint64]  # digests of what decides on which side of a division it falls
    documents: NDArray[np.uint64]  # digests of the names of their documents


@final
class Texts:
    """The records of some files, read anew each time they are iterated; the files themselves are parsed once at most.

    What was parsed is kept in the cache, in shards named by all that they are made from: the bytes of a file, its path,
    how it is read, and the code that reads it.
    """

    def __init__(self, files: Sequence[Path], options: ReadOptions = PLAIN, on_bad: OnBadRecord = "error") -> None:
        self.files, self.options = tuple(files), options
        self.on_bad: OnBadRecord = on_bad

    @cached_property
    def digest(self) -> str:
        """Of the bytes of the files, the names by which records know them and how they are read; nothing is parsed."""
        labels = label_files(self.files)
        told = [[label, kind_of_file(path)] for label, path in zip(labels, self.files, strict=True)]
        return digest_of([self.options.told(), told, self._digests])

    @cached_property
    def index(self) -> Index:
        """What is known of all records without reading them again."""
        return Index(*map(self._column, ("sizes", "keys", "documents")))

    @cached_property
    def is_split(self) -> bool:
        """Whether what should stand between the documents of a .txt stands in one of them, or there is no .txt."""
        texts = [index for index, path in enumerate(self.files) if not holds_objects(path)]
        if self.options.split_on is None or not texts:
            return True
        if any(sum(place.piece.records for place in self._places[index]) > 1 for index in texts):
            return True
        return any(_holds(self.files[index], self.options.split_on.encode()) for index in texts)

    def __iter__(self) -> Iterator[Record]:
        return self.rows(0, len(self))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, first: int, last: int) -> Iterator[Record]:
        """The records `first` to `last` (exclusive)."""
        return read_runs(self.runs(first, last), self.suffixes, first)

    def runs(self, first: int, last: int) -> list[Run]:
        """Where these records stand."""
        starts, found = self._ends - np.diff(self._ends, prepend=0), list[Run]()
        for index in range(int(np.searchsorted(self._ends, first, side="right")), len(self._ends)):
            low, high = max(first - int(starts[index]), 0), min(last, int(self._ends[index])) - int(starts[index])
            if low >= high:
                break
            place = self._all_places[index]
            shard, row = str(place.shard), place.row
            if found and found[-1][0] == shard and found[-1][2] == row + low:
                found[-1] = (shard, found[-1][1], row + high)
            else:
                found.append((shard, row + low, row + high))
        return found

    @cached_property
    def suffixes(self) -> NDArray[np.int32] | None:
        """Of each record the number behind its id, where another before it has the same; 0: none. None: all are 0."""
        return own_suffixes(self._column("ids"), lambda: read_runs(self.runs(0, len(self))))

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(place.piece.records for place in self._all_places)])[1:] if self._all_places else _NONE

    @cached_property
    def _all_places(self) -> list[Place]:
        return [place for places in self._places for place in places]

    def _column(self, name: str) -> NDArray[Any]:
        parts = [
            read_column(place.shard, name)[place.row : place.row + place.piece.records] for place in self._all_places
        ]
        return np.concatenate(parts)

    @cached_property
    def _digests(self) -> list[str]:
        digests = digests_of(self.files, cache_folder("files"))
        first = dict(zip(reversed(digests), reversed(self.files), strict=True))
        pairs = [(path, first[digest]) for path, digest in zip(self.files, digests, strict=True)]
        if copies := [f"{path} as {other}" for path, other in pairs if path != other]:
            say_once(f"{len(copies):,} files hold the same bytes as others, and are read too: {', '.join(copies[:3])}")
        return digests

    @property
    def skipped(self) -> list[str]:
        """A line for each object that cannot be read and is left out."""
        return self._placed[1]

    @property
    def _places(self) -> list[list[Place]]:
        """Where the records of each file are."""
        return self._placed[0]

    @cached_property
    def _placed(self) -> tuple[list[list[Place]], list[str]]:
        """Both; what cannot be read is an error, or said, once the records are known."""
        found = Shelf(self.files, self._digests, self.options).places()
        bad = BadRecords(self.on_bad)
        for path, places in zip(self.files, found, strict=True):
            errors = [error for place in places for error in place.piece.bad]
            if not errors and not any(place.piece.objects for place in places):
                check_empty(path, is_alone=len(self.files) == 1)
            bad.take(errors)
        bad.settle()
        tell_skipped(*bad.lines)
        return found, bad.lines


def check_empty(path: Path, *, is_alone: bool) -> None:
    """Raises DataError for a file in which nothing stands, which a table among others may be."""
    if is_alone or kind_of_file(path) not in TABLES:
        raise DataError(f"{path} is empty", cure="remove it, or write some text into it")


def _holds(path: Path, data: bytes) -> bool:
    with opening(path) as file:
        rest = b""
        while chunk := file.read(_CHUNK):
            rest += chunk
            if data in rest:
                return True
            rest = rest[len(rest) - len(data) + 1 :]  # where it may have begun
    return False
