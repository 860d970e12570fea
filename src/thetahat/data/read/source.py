"""The two parts of a dataset: one to train on, one to hold out."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig, OnBadRecord, as_typed
from thetahat.data.read.files import find_files, identity
from thetahat.data.read.record import Record
from thetahat.data.read.texts import Index, Texts

_CURES = {
    "tail": "data.held_out=tail:0.1 (the end of the data)",
    "hash": "data.held_out=hash:0.3 (a larger share of the documents)",
    "path": "data.held_out=PATH (other files)",
    "none": "data.held_out=none",
}
Mask = NDArray[np.bool_]


@final
class Division:
    """Which records of a dataset are held out, or where its only document is cut; known when it is first asked."""

    def __init__(self, texts: Texts, config: DataConfig) -> None:
        self._texts, self._config = texts, config

    @cached_property
    def is_held_out(self) -> Mask:
        """One element a record."""
        rule, fraction = self._config.division
        index = self._texts.index
        return by_digest(index, fraction) if rule == "hash" else by_place(index, fraction)

    @cached_property
    def _cut(self) -> int | None:
        """The byte from which the only document is held out, at the start of a character."""
        rule, fraction = self._config.division
        if rule != "tail" or len(self.is_held_out) > 1:
            return None
        (record,) = self._texts
        if record.canonical != record.text:
            return None
        data = record.text.encode()
        target = int(len(data) * (1 - fraction))
        cut = next((i for i in range(target, len(data)) if data[i] & 0xC0 != 0x80), len(data))
        if cut in {0, len(data)}:
            raise _nothing_left(self._config, 1, "hold out" if cut else "train on")
        return cut

    def of(self, index: int, record: Record, *, held_out: bool) -> Record | None:
        """What one part has of a record."""
        if self._cut is None:
            return record if bool(self.is_held_out[index]) == held_out else None
        data = record.text.encode()
        start, stop = (self._cut, len(data)) if held_out else (0, self._cut)
        name = f"{record.id}[{start or ''}:{stop if not held_out else ''}]"
        return replace(record, text=data[start:stop].decode(), id=name)


def by_digest(index: Index, fraction: Fraction) -> Mask:
    """Whether the digest of the key that decides for each record, read as a number in [0, 1), is below `fraction`."""
    bound = -(-fraction.numerator * (1 << 64) // fraction.denominator)
    return _deciding(np.asarray(index.keys), np.asarray(index.documents)) < np.uint64(min(bound, (1 << 64) - 1))


def _deciding(keys: NDArray[np.uint64], documents: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Of each record, the key of one of those that stay together: joined, in a chain, by a key or a document.

    Which one depends on the keys alone, not on their order. It is the lowest by another hash: the lowest by its own
    value would hold out more than the fraction. A record that is joined to no other decides for itself.
    """
    if len(np.unique(documents)) == len(documents):
        return keys
    from scipy.sparse import coo_matrix  # its import takes 0.05 s, and few datasets need it
    from scipy.sparse.csgraph import connected_components

    known, key = np.unique(keys, return_inverse=True)
    _, document = np.unique(documents, return_inverse=True)
    size = len(known) + int(document.max()) + 1
    edges = coo_matrix((np.ones(len(key), np.bool_), (key, document + len(known))), shape=(size, size))
    component = np.asarray(connected_components(edges, directed=False)[1])
    rank = (known ^ (known >> np.uint64(31))) * np.uint64(0xBF58476D1CE4E5B9)
    order = np.lexsort((rank, component[: len(known)]))
    groups, first = np.unique(component[: len(known)][order], return_index=True)
    return known[order[first[np.searchsorted(groups, component[key])]]]


def by_place(index: Index, fraction: Fraction) -> Mask:
    """The last records: whole documents, with as many bytes as are nearest to `fraction` of all.

    Where the records of documents lie so mixed that every border divides one, it is whole records.
    """
    ends = np.cumsum(index.sizes)
    is_held_out = np.zeros(len(ends), np.bool_)
    if len(ends) > 1:
        target = int(int(ends[-1]) * (1 - fraction))  # bytes to train on
        _, document = np.unique(index.documents, return_inverse=True)
        last = np.zeros(int(document.max()) + 1, np.int64)
        np.maximum.at(last, document, np.arange(len(document)))
        divides_none = np.maximum.accumulate(last[document])[:-1] < np.arange(1, len(ends))
        distance = abs(ends[:-1] - target)
        distance[~divides_none & divides_none.any()] = ends[-1]
        is_held_out[1 + int(np.argmin(distance)) :] = True
    return is_held_out


@final
@dataclass(frozen=True, slots=True)
class Records:
    """A part of a dataset: read anew each time it is iterated."""

    texts: Texts
    config: DataConfig
    division: Division | None = None  # None: all of it
    held_out: bool = False

    @property
    def on_bad(self) -> OnBadRecord:
        """What becomes of a record that cannot be used."""
        return self.config.on_bad_record

    @property
    def kept(self) -> Mask | None:
        """Which records of all these are; None: all. A document that is cut in two is the only one."""
        return None if self.division is None else self.division.is_held_out == self.held_out

    @property
    def digest(self) -> str:
        """Of all that says which records these are, and what they weigh; nothing is parsed."""
        rule = self.config.held_out if self.division else ""
        return json.dumps([self.texts.digest, rule, self.held_out, self.config.source_weights], sort_keys=True)

    def __iter__(self) -> Iterator[Record]:
        if not self.held_out:
            self._check_separator()
        is_empty, weights = True, self.config.source_weights
        unseen = set(weights)
        for index, record in enumerate(self.texts):
            unseen.discard(record.source)
            kept = self.division.of(index, record, held_out=self.held_out) if self.division else record
            if kept is not None:
                is_empty = False
                yield replace(kept, weight=kept.weight * weights.get(kept.source, 1.0)) if weights else kept
        if is_empty:
            raise _nothing_left(self.config, len(self.texts), "hold out" if self.held_out else "train on")
        if unseen:
            raise DataError(f"data.source_weights names {min(unseen)!r}, a source that no record has")

    def _check_separator(self) -> None:
        """What stands nowhere in the texts to train on divides nothing, and one huge document is not what was meant."""
        if not self.texts.is_split:
            raise DataError(
                f"data.split_on={self.config.separator!r} stands nowhere in data.train={as_typed(self.config.train)}",
                cure=r"what stands between documents (\n is a line break, \\ a backslash), or data.split_on=none",
            )


def divide(config: DataConfig) -> tuple[Records, Records | None]:
    """The documents to train on and those held out (None where none are).

    `hash` leaves no document and no prompt in both, `tail` no document.
    """
    files = find_files(config.train)
    texts = Texts(files, config.read_options, config.on_bad_record)
    rule, _ = config.division
    if rule == "none":
        return Records(texts, config), None
    if rule == "path":
        theirs = Texts(_other_files(config, files), config.read_options, config.on_bad_record)
        return Records(texts, config), Records(theirs, config, held_out=True)
    division = Division(texts, config)
    return Records(texts, config, division), Records(texts, config, division, held_out=True)


def _other_files(config: DataConfig, files: Sequence[Path]) -> tuple[Path, ...]:
    held_out = tuple(find_files(config.held_out))
    ours = set(map(identity, files))
    if both := [path for path in held_out if identity(path) in ours]:
        raise DataError(
            f"{both[0]} is in data.train={as_typed(config.train)} and in data.held_out={as_typed(config.held_out)}",
            cure="keep the two apart, or let data.held_out=hash:0.1 divide one set",
        )
    return held_out


def _nothing_left(config: DataConfig, num_records: int, purpose: str) -> DataError:
    """Cures are others than what is set already; which of them there are depends on how much there is to divide."""
    rule, fraction = config.division
    cures = [cure for name, cure in _CURES.items() if name != rule and (name != "hash" or num_records > 1)]
    if rule == "hash" and num_records > 1 and purpose == "hold out" and fraction < Fraction(3, 10):
        cures.insert(0, _CURES["hash"])
    if config.on_bad_record == "skip":
        cures.append("mend the records that data.on_bad_record=skip leaves out")
    count = f"{num_records:,} record{'s' * (num_records != 1)}"
    given = f"data.train={as_typed(config.train)} with data.held_out={as_typed(config.held_out)}"
    what = f"{given} leaves no document to {purpose}: {count}"
    return DataError(what, cure=", or ".join(cures))
