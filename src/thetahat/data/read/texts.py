"""The records of files: parsed once, then read from a compact copy in the cache."""

import hashlib
import json
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thetahat.core import store
from thetahat.core.errors import DamagedError, DataError
from thetahat.data.config import OnBadRecord, ReadOptions
from thetahat.data.read.bad import BadRecords, tell_skipped
from thetahat.data.read.cache import cache_folder, code_digest, waiting_for
from thetahat.data.read.files import find_files, holds_objects, kind_of_file, label_files, say_once
from thetahat.data.read.form.shape import known_columns
from thetahat.data.read.manifest import digests_of, stamp_of
from thetahat.data.read.objects import read_objects
from thetahat.data.read.opening import opening
from thetahat.data.read.record import Record, parse_records
from thetahat.data.read.table.delimited import DELIMITED, with_weight
from thetahat.data.read.table.rows import TABLES

_BLOCK_BYTES = 1 << 20  # of records that are compressed, and read again, together
_CHUNK = 1 << 20
_FACTS = "facts.json"
_PLAIN = ReadOptions()
_DECODER = msgspec.json.Decoder(list[Record])


def read_records(
    specs: str | Sequence[str], options: ReadOptions = _PLAIN, on_bad: OnBadRecord = "error"
) -> Iterator[Record]:
    """Every record of files, folders or globs, in order, each with an id of its own; no file counts twice."""
    return _streamed(find_files(specs), options, on_bad)


def _streamed(files: Sequence[Path], options: ReadOptions, on_bad: OnBadRecord) -> Iterator[Record]:
    bad = BadRecords(on_bad)
    yield from _parse(files, options, bad)
    tell_skipped(*bad.lines)


def _parse(files: Sequence[Path], options: ReadOptions, bad: BadRecords) -> Iterator[Record]:
    taken: dict[str, int] = {}
    known = known_columns(options.columns)
    for path, label in zip(files, label_files(files), strict=True):
        is_empty, num_bad, how = True, len(bad), options if holds_objects(path) else _PLAIN
        is_delimited = kind_of_file(path) in DELIMITED
        for number, fields in read_objects(path, options.split_on, columns=known, on_error=bad):
            is_empty = False
            try:
                fields = with_weight(fields, options.columns) if is_delimited else fields
                records = parse_records(fields, f"{path}:{number}", how, id=f"{label}:{number}", source=label)
            except DataError as error:
                bad(error)
            else:
                yield from (with_own_id(record, taken) for record in records)
        if is_empty and len(bad) == num_bad and (kind_of_file(path) not in TABLES or len(files) == 1):
            raise DataError(f"{path} is empty", cure="remove it, or write some text into it")
    bad.settle()


def with_own_id(record: Record, taken: dict[str, int]) -> Record:
    """The record, with ~2, ~3, ... behind an id that another has; its document stays, so they are one cluster."""
    if record.id not in taken:
        taken[record.id] = 1
        return record
    while (id := f"{record.id}~{taken[record.id] + 1}") in taken:
        taken[record.id] += 1
    taken[record.id] += 1
    taken[id] = 1
    return replace(record, id=id)


@dataclass(frozen=True, slots=True)
class Index:
    """What a division asks of all records, one element a record."""

    sizes: NDArray[np.int64]  # bytes of all that is in it
    keys: NDArray[np.uint64]  # digests of what decides on which side of a division it falls
    documents: NDArray[np.uint64]  # digests of the names of their documents


@final
class Texts:
    """The records of some files, read anew each time they are iterated; the files themselves are parsed once at most.

    The copy in the cache is named by a digest of all that it is made from: the bytes of the files, their paths, how
    they are read, and the code that reads them.
    """

    def __init__(self, files: Sequence[Path], options: ReadOptions = _PLAIN, on_bad: OnBadRecord = "error") -> None:
        self.files, self.options = tuple(files), options
        self.on_bad: OnBadRecord = on_bad

    @cached_property
    def digest(self) -> str:
        """Of the bytes of the files, the names by which records know them and how they are read; nothing is parsed."""
        labels = label_files(self.files)
        told = [[label, kind_of_file(path)] for label, path in zip(labels, self.files, strict=True)]
        return _digest([self.options.told(), told, self._digests])

    @cached_property
    def index(self) -> Index:
        """What is known of all records without reading them again."""
        return Index(*(np.load(self._copy / f"{name}.npy", mmap_mode="r") for name in ("sizes", "keys", "documents")))

    @cached_property
    def is_split(self) -> bool:
        """Whether what should stand between the documents of a .txt stands in one of them, or there is no .txt."""
        return json.loads((self._copy / _FACTS).read_bytes())["is_split"]

    def __iter__(self) -> Iterator[Record]:
        blocks, codec = np.load(self._copy / "blocks.npy"), pa.Codec("zstd")
        with (self._copy / "records.bin").open("rb") as file:
            for compressed, size, checksum in blocks.tolist():
                data = file.read(compressed)
                if zlib.crc32(data) != checksum:
                    raise DataError(f"{self._copy} is damaged", cure="delete it: the text is then read again")
                yield from _DECODER.decode(memoryview(codec.decompress(data, size)))

    @cached_property
    def _digests(self) -> list[str]:
        digests = digests_of(self.files, cache_folder("files"))
        first = dict(zip(reversed(digests), reversed(self.files), strict=True))
        pairs = [(path, first[digest]) for path, digest in zip(self.files, digests, strict=True)]
        if copies := [f"{path} as {other}" for path, other in pairs if path != other]:
            say_once(f"{len(copies):,} files hold the same bytes as others, and are read too: {', '.join(copies[:3])}")
        return digests

    @cached_property
    def _copy(self) -> Path:
        """The folder of the copy, which is made where it is not there or not whole."""
        cache = cache_folder("records")
        paths = [str(path) for path in self.files]
        name = _digest([code_digest(), self.options.told(), self.on_bad, paths, self._digests])
        folder = cache / name
        with waiting_for(cache / f".{name}.lock"):
            if not is_whole(folder):
                stamps = [stamp_of(path) for path in self.files]
                if digests_of(self.files, cache_folder("files")) != self._digests:
                    raise _changed()
                with store.publishing(folder) as partial:
                    bad = BadRecords(self.on_bad)
                    counts = _write(partial, _parse(self.files, self.options, bad))
                    facts = {"is_split": self._finds_separator(counts), "bad": bad.lines}
                    store.write_json(partial / _FACTS, facts)
                    if [stamp_of(path) for path in self.files] != stamps:
                        raise _changed()
        tell_skipped(*json.loads((folder / _FACTS).read_bytes())["bad"])
        return folder

    def _finds_separator(self, counts: Mapping[str, int]) -> bool:
        labelled = zip(self.files, label_files(self.files), strict=True)
        texts = [(path, label) for path, label in labelled if not holds_objects(path)]
        if self.options.split_on is None or not texts or any(counts[label] > 1 for _, label in texts):
            return True
        return any(_holds(path, self.options.split_on.encode()) for path, _ in texts)


def _write(folder: Path, records: Iterable[Record]) -> Counter[str]:
    """Writes the copy; gives the number of records of each source."""
    sizes, keys, documents, blocks = array("q"), array("Q"), array("Q"), array("Q")
    counts = Counter[str]()
    codec = pa.Codec("zstd", compression_level=1)
    with (folder / "records.bin").open("wb") as file:
        for block in _batched(records):
            for record, size in block:
                sizes.append(size)
                keys.append(digest_of_key(record.key))
                documents.append(digest_of_key(record.document))
                counts[record.source] += 1
            raw = msgspec.json.encode([record for record, _ in block])
            data = codec.compress(raw, asbytes=True)
            file.write(data)
            blocks.extend((len(data), len(raw), zlib.crc32(data)))
    columns = {"sizes": sizes, "keys": keys, "documents": documents}
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", np.array(column, column.typecode))
    np.save(folder / "blocks.npy", np.array(blocks, np.int64).reshape(-1, 3))
    return counts


def _batched(records: Iterable[Record]) -> Iterator[list[tuple[Record, int]]]:
    """Records and the bytes of all that is in each, _BLOCK_BYTES or more together."""
    batch: list[tuple[Record, int]] = []
    num_bytes = 0
    for record in records:
        batch.append((record, len(record.canonical.encode())))
        num_bytes += batch[-1][1]
        if num_bytes >= _BLOCK_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch


def digest_of_key(text: str) -> int:
    """64 bits of a text: as a number in [0, 1), what decides on its side of a division."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big")


def _holds(path: Path, data: bytes) -> bool:
    with opening(path) as file:
        rest = b""
        while chunk := file.read(_CHUNK):
            rest += chunk
            if data in rest:
                return True
            rest = rest[len(rest) - len(data) + 1 :]  # where it may have begun
    return False


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).hexdigest()


def _changed() -> DataError:
    return DataError("the data changed while it was read", cure="start again when nothing writes to it")


def is_whole(folder: Path) -> bool:
    """Whether a folder of the cache is there with all its files in their sizes; what is left of another is removed.

    Bytes are not read: `store.verify` does that, for whoever asks.
    """
    if not folder.exists():
        return False
    try:
        store.verify(folder, deep=False)
    except DamagedError:
        store.remove(folder)
        return False
    return True
