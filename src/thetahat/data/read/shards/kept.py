"""The files of a shard: records in compressed blocks, and columns with what is asked of all of them."""

import hashlib
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from thetahat.core.errors import DataError
from thetahat.data.read.record import Record

BLOCK_BYTES = 1 << 20  # of records that are compressed, and read again, together
COLUMNS = {"sizes": "q", "keys": "Q", "documents": "Q", "ids": "Q"}  # one element a record
_RECORDS, _BLOCKS = "records.bin", "blocks.npy"
_DECODER = msgspec.json.Decoder(list[Record])


@final
class ShardWriter:
    """Takes records, and writes them into a folder."""

    def __init__(self) -> None:
        self._columns = {name: array(code) for name, code in COLUMNS.items()}
        self._blocks = list[tuple[int, int, int, int]]()  # compressed and raw bytes, checksum, records
        self._data = list[bytes]()
        self._codec: Any = pa.Codec("zstd", compression_level=1)
        self._waiting = list[Record]()
        self._num_waiting = self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._columns["sizes"])

    def add(self, record: Record) -> int:
        """Keeps a record; gives the bytes of all that is in it."""
        size = len(record.canonical.encode())
        values = size, digest_of_key(record.key), digest_of_key(record.document), digest_of_key(record.id)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(value)
        self._waiting.append(record)
        self._num_waiting += size
        self.num_bytes += size
        if self._num_waiting >= BLOCK_BYTES:
            self._close_block()
        return size

    def _close_block(self) -> None:
        raw = msgspec.json.encode(self._waiting)
        data = self._codec.compress(raw, asbytes=True)
        self._blocks.append((len(data), len(raw), zlib.crc32(data), len(self._waiting)))
        self._data.append(data)
        self._waiting, self._num_waiting = [], 0

    def write(self, folder: Path) -> None:
        """Writes all of it."""
        if self._waiting:
            self._close_block()
        with (folder / _RECORDS).open("wb") as file:
            file.writelines(self._data)
        for name, column in self._columns.items():
            np.save(folder / f"{name}.npy", np.array(column, column.typecode))
        np.save(folder / _BLOCKS, np.array(self._blocks, np.int64).reshape(-1, 4))


def read_rows(shard: Path, first: int, last: int) -> Iterator[Record]:
    """The records `first` to `last` (exclusive) of a shard."""
    blocks, codec, row = np.load(shard / _BLOCKS), pa.Codec("zstd"), 0
    with (shard / _RECORDS).open("rb") as file:
        for compressed, size, checksum, number in blocks.tolist():
            before, row = row, row + number
            if row <= first or before >= last:
                file.seek(compressed, 1)
                continue
            data = file.read(compressed)
            if zlib.crc32(data) != checksum:
                raise DataError(f"{shard} is damaged", cure="delete it: the text is then read again")
            records: Sequence[Record] = _DECODER.decode(memoryview(codec.decompress(data, size)))
            yield from records[max(first - before, 0) : last - before]


def read_column(shard: Path, name: str) -> NDArray[Any]:
    """One of COLUMNS."""
    return np.load(shard / f"{name}.npy", mmap_mode="r")


def digest_of_key(text: str) -> int:
    """64 bits of a text: as a number in [0, 1), what decides on its side of a division."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big")
