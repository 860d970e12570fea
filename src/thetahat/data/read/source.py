"""The two parts of a dataset: one to train on, one to hold out."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import final

import numpy as np
from msgspec.structs import replace as replace_config
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

    def __init__(self, texts: Texts, config: DataConfig, key: str = "data.train") -> None:
        self._texts, self._config, self._key = texts, config, key

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
            raise _nothing_left(self._config, 1, "hold out" if cut else "train on", self._key)
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
    key: str = "data.train"  # that names what is trained on

    @property
    def on_bad(self) -> OnBadRecord:
        """What becomes of a record that cannot be used."""
        return self.config.on_bad_record

    @property
    def sources(self) -> "tuple[tuple[str, Records], ...]":
        """As of a mixture: this alone, without a name."""
        return (("", self),)

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they stand."""
        return self.texts.files

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
                yield weighed(kept, weights)
        if is_empty:
            purpose = "hold out" if self.held_out else "train on"
            raise _nothing_left(self.config, len(self.texts), purpose, self.key)
        if unseen:
            raise DataError(f"data.source_weights names {min(unseen)!r}, a source that no record has")

    def _check_separator(self) -> None:
        """What stands nowhere in the texts to train on divides nothing, and one huge document is not what was meant."""
        if not self.texts.is_split:
            raise DataError(
                f"data.split_on={self.config.separator!r} stands nowhere in {self.key}={as_typed(self.config.train)}",
                cure=r"what stands between documents (\n is a line break, \\ a backslash), or data.split_on=none",
            )


@final
@dataclass(frozen=True, slots=True)
class Mixed:
    """The records of several sources, one source after the other, each record named after its own."""

    sources: tuple[tuple[str, Records], ...]
    config: DataConfig

    @property
    def on_bad(self) -> OnBadRecord:
        """What becomes of a record that cannot be used."""
        return self.config.on_bad_record

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they stand."""
        return tuple(path for _, records in self.sources for path in records.files)

    @property
    def digest(self) -> str:
        """Of all that says which records these are, and what they weigh; nothing is parsed."""
        weights = self.config.source_weights
        return json.dumps([[name, records.digest, weights.get(name, 1.0)] for name, records in self.sources])

    def __iter__(self) -> Iterator[Record]:
        for name, records in self.sources:
            weight = self.config.source_weights.get(name, 1.0)
            yield from (of_source(one, name, weight) for one in records)


def weighed(record: Record, weights: Mapping[str, float]) -> Record:
    """The record with the weight of its source."""
    return replace(record, weight=record.weight * weights.get(record.source, 1.0)) if weights else record


def of_source(record: Record, name: str, weight: float) -> Record:
    """The record as one of a named source of a mixture."""
    id, document = f"{name}/{record.id}", f"{name}/{record.document}"
    return replace(record, id=id, document=document, source=name, weight=record.weight * weight)


def divide(config: DataConfig) -> tuple[Records | Mixed, Records | Mixed | None]:
    """The documents to train on and those held out (None where none are).

    `hash` leaves no document and no prompt in both, `tail` no document. Of several sources each is divided by itself.
    """
    if not config.sources:
        return _divide(config)
    parts = {name: _divide(_of_source(config, name), f"data.sources.{name}.path") for name in sorted(config.sources)}
    train = tuple((name, ours) for name, (ours, _) in parts.items())
    held_out = tuple((name, theirs) for name, (_, theirs) in parts.items() if theirs is not None)
    _check_apart(train, [(name, records) for name, records in held_out if records.division is None])
    if not held_out or config.division[0] == "path":
        return Mixed(train, config), held_out[0][1] if held_out else None
    return Mixed(train, config), Mixed(held_out, config)


def _of_source(config: DataConfig, name: str) -> DataConfig:
    """The same for one source alone."""
    one, plain = config.sources[name], {"sources": {}, "source_weights": {}, "temperature": None}
    held_out = config.held_out if one.held_out is None else one.held_out
    return replace_config(config, train=one.path, held_out=held_out, **plain)


def _check_apart(train: Sequence[tuple[str, Records]], held_out: Sequence[tuple[str, Records]]) -> None:
    """Raises DataError for a file of two sources, or one that is trained on in one and held out in another."""
    seen: dict[tuple[int, int], str] = {}
    for name, records in train:
        for path in records.files:
            if (other := seen.setdefault(identity(path), name)) != name:
                raise DataError(f"{path} is in data.sources.{other} and in data.sources.{name}", cure="keep them apart")
    for name, records in held_out:
        if both := [path for path in records.files if identity(path) in seen]:
            other = seen[identity(both[0])]
            what = f"{both[0]} is in data.sources.{other} and among what is held out of data.sources.{name}"
            raise DataError(what, cure="keep them apart")


def _divide(config: DataConfig, key: str = "data.train") -> tuple[Records, Records | None]:
    files = find_files(config.train)
    texts = Texts(files, config.read_options, config.on_bad_record)
    rule, _ = config.division
    if rule == "none":
        return Records(texts, config, key=key), None
    if rule == "path":
        theirs = Texts(_other_files(config, files, key), config.read_options, config.on_bad_record)
        return Records(texts, config, key=key), Records(theirs, config, held_out=True, key=key)
    division = Division(texts, config, key)
    return Records(texts, config, division, key=key), Records(texts, config, division, held_out=True, key=key)


def _other_files(config: DataConfig, files: Sequence[Path], key: str) -> tuple[Path, ...]:
    held_out = tuple(find_files(config.held_out))
    ours = set(map(identity, files))
    if both := [path for path in held_out if identity(path) in ours]:
        raise DataError(
            f"{both[0]} is in {key}={as_typed(config.train)} and in {_held_out(key)}={as_typed(config.held_out)}",
            cure=f"keep the two apart, or let {_held_out(key)}=hash:0.1 divide one set",
        )
    return held_out


def _held_out(key: str) -> str:
    """The key that says what is held out of what another key names."""
    return "data.held_out" if key == "data.train" else key.removesuffix("path") + "held_out"


def _nothing_left(config: DataConfig, num_records: int, purpose: str, key: str) -> DataError:
    """Cures are others than what is set already; which of them there are depends on how much there is to divide."""
    rule, fraction = config.division
    cures = [cure for name, cure in _CURES.items() if name != rule and (name != "hash" or num_records > 1)]
    if rule == "hash" and num_records > 1 and purpose == "hold out" and fraction < Fraction(3, 10):
        cures.insert(0, _CURES["hash"])
    if config.on_bad_record == "skip":
        cures.append("mend the records that data.on_bad_record=skip leaves out")
    count = f"{num_records:,} record{'s' * (num_records != 1)}"
    given = f"{key}={as_typed(config.train)} with {_held_out(key)}={as_typed(config.held_out)}"
    what = f"{given} leaves no document to {purpose}: {count}"
    return DataError(what, cure=", or ".join(cures).replace("data.held_out", _held_out(key)))
