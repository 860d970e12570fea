"""The part of large data that a tokenizer is trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from thetahat.data.read.record import Record
from thetahat.data.read.source import Mixed, Records

_ODD = np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """Records chosen by digests of what is in them: the same ones wherever they stand, and whoever chooses."""

    records: Records | Mixed
    chosen: NDArray[np.bool_] | None  # one element a record of all data; None: all records
    num_bytes: int  # of the records that are chosen
    total: int  # bytes of all records
    limit: int

    @property
    def texts(self) -> Iterator[str]:
        """What a tokenizer learns from, in the order of the data; of a longer text the first `limit` characters."""
        if self.chosen is None:
            return (text for record in self.records for text in record.texts)
        return (text[: self.limit] for record in self._chosen() for text in record.texts)

    def _chosen(self) -> Iterator[Record]:
        assert self.chosen is not None
        first = 0
        for _, records in self.records.sources:
            last = first + len(records.texts)
            if len(records.texts) == 1:  # it may be cut in two
                yield from records if self.chosen[first] else ()
            else:
                for low, high in _stretches(np.flatnonzero(self.chosen[first:last])):
                    yield from records.texts.rows(low, high)
            first = last

    @property
    def num_records(self) -> int:
        """How many are chosen; 0 where all are."""
        return 0 if self.chosen is None else int(np.count_nonzero(self.chosen))

    def __str__(self) -> str:
        return (
            f"the tokenizer is trained on a sample: {self.num_records:,} records with {self.num_bytes / 1e6:,.0f} MB "
            f"of {self.total / 1e6:,.0f} MB (data.tokenizer_bytes={self.limit})"
        )

    def facts(self) -> dict[str, int]:
        """What is noted beside the tokenizer."""
        told = {"records": self.num_records, "bytes": self.num_bytes, "of_bytes": self.total}
        return {**told, "tokenizer_bytes": self.limit}


def sample_of(records: Records | Mixed, limit: int) -> Sample:
    """Records with `limit` bytes or a little more, those with the lowest hashes; all of them if there are no more."""
    parts = [(some.texts.index, some.kept) for _, some in records.sources]
    sizes = np.concatenate([index.sizes if kept is None else np.where(kept, index.sizes, 0) for index, kept in parts])
    total = int(sizes.sum())
    if total <= limit:
        return Sample(records, None, total, total, limit)
    keys = np.concatenate([index.keys for index, _ in parts])
    order = np.lexsort((np.arange(len(keys)), (keys ^ (keys >> np.uint64(29))) * _ODD))  # another one than a division's
    order = order[sizes[order] > 0]
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(sizes), np.bool_)
    chosen[order[before < limit]] = True
    return Sample(records, chosen, int(sizes[chosen].sum()), total, limit)


def _stretches(index: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Consecutive indices, as the first and the last (exclusive) of each run."""
    if not len(index):
        return
    breaks = np.flatnonzero(np.diff(index) != 1)
    firsts, lasts = np.append(0, breaks + 1), np.append(breaks, len(index) - 1)
    for first, last in zip(index[firsts].tolist(), index[lasts].tolist(), strict=True):
        yield first, last + 1
