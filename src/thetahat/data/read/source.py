"""Files to records, and records to two parts: one to train on, one to hold out."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import final

from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig
from thetahat.data.read.files import find_files as find_files, holds_objects, identity, label_files
from thetahat.data.read.objects import read_objects
from thetahat.data.read.opening import opening
from thetahat.data.read.record import Record as Record, parse_record

_CHUNK = 1 << 20
_CURES = "data.held_out=tail:0.1 (the end of the data), data.held_out=PATH, or data.held_out=none"

Rule = Callable[[int, Record], Record | None]  # what becomes of the i-th record in this part of the data


def read_records(specs: str | Sequence[str], split_on: str | None = None) -> Iterator[Record]:
    """Every record of files, folders or globs, in order, each with an id of its own; no file counts twice."""
    return _read_files(find_files(specs), split_on)


@final
@dataclass(frozen=True, slots=True)
class Records:
    """A part of a dataset: read anew, line by line, each time it is iterated."""

    files: tuple[Path, ...]
    split_on: str | None
    rule: Rule
    if_empty: DataError
    weights: Mapping[str, float] | None = None  # of sources

    def __iter__(self) -> Iterator[Record]:
        is_empty, unseen = True, set(self.weights or ())
        for index, record in enumerate(_read_files(self.files, self.split_on)):
            unseen.discard(record.source)
            kept = self.rule(index, record)
            if kept is not None:
                is_empty = False
                yield replace(kept, weight=kept.weight * self.weights.get(kept.source, 1.0)) if self.weights else kept
        if is_empty:
            raise self.if_empty
        if unseen:
            raise DataError(f"data.source_weights names {min(unseen)!r}, a source that no record has")


def divide(config: DataConfig) -> tuple[Records, Records | None]:
    """The documents to train on and those held out (None where none are): no document is in both."""
    files = tuple(find_files(config.train))
    if config.separator is not None:
        _check_separator(config.separator, files, config)
    rule, fraction = config.division
    match rule:
        case "none":
            return Records(files, config.separator, _everything, _nothing(config), config.source_weights), None
        case "path":
            held_out = _other_files(config, files)
            ours, theirs = (_everything, _everything)
        case "hash":
            held_out, (ours, theirs) = files, _by_digest(fraction)
        case "tail":
            held_out, (ours, theirs) = files, _by_place(_read_files(files, config.separator), fraction, config)
    train = Records(files, config.separator, ours, _nothing_left(config, "train on"), config.source_weights)
    return train, Records(held_out, config.separator, theirs, _nothing_left(config, "hold out"))


def is_held_out(text: str, fraction: Fraction) -> bool:
    """Whether the digest of a document's text, read as a number in [0, 1), is below `fraction`."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=b"held-out").digest()
    return Fraction(int.from_bytes(digest, "big"), 1 << 64) < fraction


def _everything(index: int, record: Record) -> Record | None:
    return record


def _by_digest(fraction: Fraction) -> tuple[Rule, Rule]:
    def train(index: int, record: Record) -> Record | None:
        return None if is_held_out(record.key, fraction) else record

    def held_out(index: int, record: Record) -> Record | None:
        return record if is_held_out(record.key, fraction) else None

    return train, held_out


def _by_place(records: Iterator[Record], fraction: Fraction, config: DataConfig) -> tuple[Rule, Rule]:
    sizes, is_text = array("q"), True
    for record in records:
        sizes.append(len(record.canonical.encode()))
        is_text = is_text and record.canonical == record.text
    if not sizes:
        raise _nothing(config)
    target = int(sum(sizes) * (1 - fraction))  # bytes to train on
    if len(sizes) == 1 and is_text:
        return _cut_at(target, sizes[0], config)
    first, before, nearest = 1, 0, sum(sizes)
    for index, size in enumerate(sizes[:-1], start=1):
        before += size
        if abs(before - target) < nearest:
            first, nearest = index, abs(before - target)
    return (
        lambda index, record: record if index < first else None,
        lambda index, record: record if index >= first else None,
    )


def _cut_at(target: int, size: int, config: DataConfig) -> tuple[Rule, Rule]:
    """The two parts of the only document, cut at the first character that starts at or after byte `target`."""

    def halves(record: Record) -> tuple[Record, Record]:
        data = record.text.encode()
        cut = next((i for i in range(target, len(data)) if data[i] & 0xC0 != 0x80), len(data))
        if cut in {0, len(data)}:
            raise _nothing_left(config, "hold out" if cut else "train on")
        head = replace(record, text=data[:cut].decode(), id=f"{record.id}[:{cut}]")
        return head, replace(record, text=data[cut:].decode(), id=f"{record.id}[{cut}:]")

    return lambda index, record: halves(record)[0], lambda index, record: halves(record)[1]


def _check_separator(separator: str, files: Sequence[Path], config: DataConfig) -> None:
    """What stands nowhere in the texts to train on divides nothing, and one huge document is not what was meant."""
    texts = [path for path in files if not holds_objects(path)]
    if texts and not any(_holds(path, separator.encode()) for path in texts):
        raise DataError(
            f"data.split_on={separator!r} stands nowhere in data.train={config.train}",
            cure=r"what stands between documents (\n is a line break, \\ a backslash), or data.split_on=none",
        )


def _holds(path: Path, data: bytes) -> bool:
    with opening(path) as file:
        rest = b""
        while chunk := file.read(_CHUNK):
            rest += chunk
            if data in rest:
                return True
            rest = rest[len(rest) - len(data) + 1 :]  # where it may have begun
    return False


def _other_files(config: DataConfig, files: Sequence[Path]) -> tuple[Path, ...]:
    held_out = tuple(find_files(config.held_out))
    ours = set(map(identity, files))
    if both := [path for path in held_out if identity(path) in ours]:
        raise DataError(
            f"{both[0]} is in data.train={config.train} and in data.held_out={config.held_out}",
            cure="keep the two apart, or let data.held_out=hash:0.1 divide one set",
        )
    return held_out


def _nothing(config: DataConfig) -> DataError:
    return DataError(f"data.train={config.train} holds no document")


def _nothing_left(config: DataConfig, purpose: str) -> DataError:
    return DataError(
        f"data.train={config.train} with data.held_out={config.held_out} leaves no document to {purpose}", cure=_CURES
    )


def _read_files(files: Sequence[Path], split_on: str | None) -> Iterator[Record]:
    taken: dict[str, int] = {}
    for path, label in zip(files, label_files(list(files)), strict=True):
        is_empty = True
        for number, fields in read_objects(path, split_on):
            is_empty = False
            record = parse_record(fields, f"{path}:{number}", id=f"{label}:{number}", source=label)
            yield with_own_id(record, taken)
        if is_empty:
            raise DataError(f"{path} is empty", cure="remove it, or write some text into it")


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
