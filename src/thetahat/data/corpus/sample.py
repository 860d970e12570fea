"""The part of large data that a tokenizer is trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from thetahat.data.read.source import Records

_ODD = np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64


@final
@dataclass(frozen=True, slots=True)
class Sample:
    """Records chosen by digests of what is in them: the same ones wherever they stand, and whoever chooses."""

    records: Records
    chosen: NDArray[np.bool_] | None  # one element a record of all data; None: all records
    num_bytes: int  # of the records that are chosen
    total: int  # bytes of all records
    limit: int

    @property
    def texts(self) -> Iterator[str]:
        """What a tokenizer learns from, in the order of the data; of a longer text the first `limit` characters."""
        if self.chosen is None:
            return (text for record in self.records for text in record.texts)
        chosen = np.flatnonzero(self.chosen)
        return (
            text[: self.limit]
            for first, last in _stretches(chosen)
            for record in self.records.texts.rows(first, last)
            for text in record.texts
        )

    def __str__(self) -> str:
        count = 0 if self.chosen is None else int(np.count_nonzero(self.chosen))
        return (
            f"the tokenizer is trained on a sample: {count:,} records with {self.num_bytes / 1e6:,.0f} MB of "
            f"{self.total / 1e6:,.0f} MB (data.tokenizer_bytes={self.limit})"
        )

    def facts(self) -> dict[str, int]:
        """What is noted beside the tokenizer."""
        count = 0 if self.chosen is None else int(np.count_nonzero(self.chosen))
        return {"records": count, "bytes": self.num_bytes, "of_bytes": self.total, "tokenizer_bytes": self.limit}


def sample_of(records: Records, limit: int) -> Sample:
    """Records with `limit` bytes or a little more, those with the lowest hashes; all of them if there are no more."""
    index, kept = records.texts.index, records.kept
    sizes = np.asarray(index.sizes) if kept is None else np.where(kept, index.sizes, 0)
    total = int(sizes.sum())
    if total <= limit:
        return Sample(records, None, total, total, limit)
    keys = np.asarray(index.keys)
    order = np.lexsort((np.arange(len(keys)), (keys ^ (keys >> np.uint64(29))) * _ODD))  # another one than a division's
    order = order[sizes[order] > 0]
    before = np.cumsum(sizes[order]) - sizes[order]
    chosen = np.zeros(len(sizes), np.bool_)
    chosen[order[before < limit]] = True
    return Sample(records, chosen, int(sizes[chosen].sum()), total, limit)


def _stretches(index: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Consecutive indices, as the first and the last (exclusive) of each run."""
    breaks = np.flatnonzero(np.diff(index) != 1)
    firsts, lasts = np.append(0, breaks + 1), np.append(breaks, len(index) - 1)
    for first, last in zip(index[firsts].tolist(), index[lasts].tolist(), strict=True):
        yield first, last + 1
