"""Records of shards one behind the other, each with an id of its own."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thetahat.data.read.record import Record
from thetahat.data.read.shards.kept import digest_of_key, read_rows

Run = tuple[str, int, int]  # a shard, and its records from the first to the last (exclusive)
Suffixes = NDArray[np.int32] | None


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


def read_runs(runs: Sequence[Run], suffixes: Suffixes = None, first: int = 0) -> Iterator[Record]:
    """The records of runs; `suffixes` are those of all records, of which these begin at the `first`."""
    for shard, low, high in runs:
        records = read_rows(Path(shard), low, high)
        if suffixes is None:
            yield from records
        else:
            behind = suffixes[first : first + high - low].tolist()
            for record, number in zip(records, behind, strict=True):
                yield replace(record, id=f"{record.id}~{number}") if number else record
        first += high - low


def own_suffixes(digests: NDArray[Any], records: Callable[[], Iterable[Record]]) -> Suffixes:
    """What `with_own_id` puts behind the id of each record, from the digests of the ids: 20 bytes of memory each.

    Where an id with such a number is the id of another record, all ids are taken one after the other.
    """
    order = np.argsort(digests, kind="stable")
    known = digests[order]
    is_new = np.append(True, known[1:] != known[:-1])
    if is_new.all():
        return None
    start = np.maximum.accumulate(np.where(is_new, np.arange(len(known)), 0))
    suffixes = np.zeros(len(known), np.int32)
    suffixes[order] = np.arange(len(known)) - start + 1
    suffixes[suffixes == 1] = 0
    for record, number in zip(records(), suffixes.tolist(), strict=True):
        if number and _is_in(digest_of_key(f"{record.id}~{number}"), known):
            return _one_after_the_other(records(), len(known))
    return suffixes


def _is_in(digest: int, known: NDArray[Any]) -> bool:
    place = int(np.searchsorted(known, np.uint64(digest)))
    return place < len(known) and int(known[place]) == digest


def _one_after_the_other(records: Iterable[Record], number: int) -> NDArray[np.int32]:
    suffixes, taken = np.zeros(number, np.int32), dict[str, int]()
    for index, record in enumerate(records):
        id = with_own_id(record, taken).id
        suffixes[index] = int(id.rpartition("~")[2]) if id != record.id else 0
    return suffixes
