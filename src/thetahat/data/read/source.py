"""Files to records, and records to two parts: one to train on, one to hold out."""

import gzip
import hashlib
import zlib
from array import array
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BufferedReader
from pathlib import Path
from typing import final

from thetahat.core.errors import DataError
from thetahat.data.config import DataConfig
from thetahat.data.read.files import ORDER_MARK, find_files as find_files, label_files
from thetahat.data.read.record import Record as Record, check_text, parse_record

_CHUNK = 1 << 20
_CURES = "data.held_out=tail:0.1 (the end of the data), data.held_out=PATH, or data.held_out=none"

Bytes = BufferedReader | gzip.GzipFile
Rule = Callable[[int, Record], Record | None]  # what becomes of the i-th record in this part of the data


def read_records(specs: str | Sequence[str], split_on: str | None = None) -> Iterator[Record]:
    """Every record of files, folders or globs, in order, each with an id of its own; no file counts twice."""
    files = [path for spec in ([specs] if isinstance(specs, str) else specs) for path in find_files(spec)]
    known = [path.resolve() for path in files]
    if repeated := next((path for path in files if known.count(path.resolve()) > 1), None):
        raise DataError(f"{repeated} is named twice", cure="name each file once")
    return _read_files(files, split_on)


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
    texts = [path for path in files if not _has_lines(path)]
    if texts and not any(_holds(path, separator.encode()) for path in texts):
        raise DataError(
            f"data.split_on={separator!r} stands nowhere in data.train={config.train}",
            cure=r"what stands between documents (\n is a line break, \\ a backslash), or data.split_on=none",
        )


def _holds(path: Path, data: bytes) -> bool:
    with _opening(path) as file:
        rest = b""
        while chunk := file.read(_CHUNK):
            rest += chunk
            if data in rest:
                return True
            rest = rest[len(rest) - len(data) + 1 :]  # where it may have begun
    return False


def _has_lines(path: Path) -> bool:
    return ".jsonl" in path.suffixes


def _other_files(config: DataConfig, files: Sequence[Path]) -> tuple[Path, ...]:
    held_out = tuple(find_files(config.held_out))
    if both := {path.resolve() for path in files} & {path.resolve() for path in held_out}:
        raise DataError(
            f"{min(both)} is in data.train={config.train} and in data.held_out={config.held_out}",
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
        read = _read_lines if _has_lines(path) else _read_text
        is_empty = True
        for record in read(path, label, split_on):
            is_empty = False
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


def _read_lines(path: Path, label: str, split_on: str | None) -> Iterator[Record]:
    for number, line in read_lines(path):
        yield parse_record(line, f"{path}:{number}", id=f"{label}:{number}", source=label)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not blank, with their numbers; raises DataError where one is not UTF-8."""
    offset = 0
    with _opening(path) as file:
        for number, line in enumerate(file, start=1):
            _decode(line, f"{path}:{number}", offset)
            offset += len(line)
            data = line.removeprefix(ORDER_MARK) if number == 1 else line
            if data.strip():
                yield number, data


def _read_text(path: Path, label: str, split_on: str | None) -> Iterator[Record]:
    with _opening(path) as file:
        for offset, number, data in _pieces(file, split_on):
            where = f"{path}:{number}"
            text = check_text(_decode(data, where, offset), where)
            yield Record(text=text, id=f"{label}:{number}", document=f"{label}:{number}", source=label)


def _pieces(file: Bytes, split_on: str | None) -> Iterator[tuple[int, int, bytes]]:
    """What stands between the separators, with the byte and the line where it starts; nothing there is no document."""
    separator = split_on.encode() if split_on is not None else None
    offset, number, rest = 0, 1, b""
    while chunk := file.read(max(_CHUNK, len(rest))):  # as much again as is held: linear even in one huge document
        rest += chunk
        if separator is None:
            continue
        *whole, rest = rest.split(separator)
        for data in whole:
            if data:
                yield offset, number, data
            offset += len(data) + len(separator)
            number += data.count(b"\n") + separator.count(b"\n")
    if rest:
        yield offset, number, rest


def _decode(data: bytes, where: str, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        path, _, number = where.rpartition(":")
        line = int(number) + data[: error.start].count(b"\n")
        raise DataError(
            f"{path}:{line}: not UTF-8: byte 0x{data[error.start]:02x} at offset {offset + error.start} of the file",
            cure="convert the file first, for example with iconv -f LATIN1 -t UTF-8",
        ) from error


@contextmanager
def _opening(path: Path) -> Generator[Bytes]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged: {error}", cure="copy or download it again") from error
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: permission denied") from error
