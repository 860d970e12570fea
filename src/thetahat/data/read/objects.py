"""The one reader of text: what a file holds, an object at a time."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NoReturn

from thetahat.core.errors import DataError
from thetahat.data.read.foreign import recognised
from thetahat.data.read.form.shape import FORMATS
from thetahat.data.read.form.trees import gathered
from thetahat.data.read.named.kind import holds_objects, kind_of_file
from thetahat.data.read.opening import COMPRESSIONS, ORDER_MARK, opening
from thetahat.data.read.strict_json import decode_json, kind_of_value
from thetahat.data.read.table.delimited import read_delimited
from thetahat.data.read.table.rows import TABLES, read_rows

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a .jsonl or of a .txt with separators, at the start of an object."""

    start: int  # bytes
    stop: int
    number: int  # of the line at `start`


def refuse(error: DataError) -> NoReturn:
    """What is done about something that cannot be read, unless a caller knows better."""
    raise error


def read_objects(
    path: Path,
    split_on: str | None = None,
    *,
    formats: str = FORMATS,
    columns: Collection[str] | None = None,
    on_error: Callable[[DataError], None] = refuse,
    stretch: Stretch | None = None,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What a file holds, in order: the number of the line where it starts (or its place: 1, 2, ...), and the object.

    A .txt holds a text, {"text": ...}, or several with `split_on` between them; a .jsonl an object a line; a .json an
    array of objects; a .parquet or .arrow, a .csv or .tsv rows, of which only `columns` are read (None: what JSON can
    hold). A byte order mark before all that says UTF-8, and is no part of it. `on_error` gets what is no object; where
    it returns, reading goes on behind that. Messages that are lines of their own become trees, see form/trees.py. With
    a `stretch` only that part of a file is read, see `stretches`.
    """
    objects = _objects(path, split_on, formats, columns, on_error, stretch)
    return gathered(objects, path, on_error)


def _objects(
    path: Path,
    split_on: str | None,
    formats: str,
    columns: Collection[str] | None,
    on_error: Callable[[DataError], None],
    stretch: Stretch | None,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    kind = kind_of_file(path)
    if kind in TABLES:
        return _rows(path, columns, on_error)
    _check_start(path)
    match kind:
        case _ if not holds_objects(path):
            return _texts(path, split_on, on_error, stretch)
        case ".csv" | ".tsv":
            return read_delimited(path, kind, columns, on_error)
        case ".json":
            return _array(path, formats, on_error)
        case _:
            return _lines(path, formats, on_error, stretch)


def _check_start(path: Path) -> None:
    """Raises DataError where the first bytes say that a file is something else, and what makes it text."""
    with opening(path) as file:
        start = file.read(64)
    if found := recognised(path, start, kind_of_file(path)):
        raise DataError(f"{path}: {found[0]}, by its first bytes", cure=found[1])


def _rows(
    path: Path, columns: Collection[str] | None, on_error: Callable[[DataError], None]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix.lower() in COMPRESSIONS:
        raise DataError(f"{path}: a table in a compressed file", cure="unpack it: tables are compressed within")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        _check_start(path)
    return read_rows(path, columns, on_error)


def stretches(path: Path, kind: str, split_on: str | None, size: int) -> Iterator[Stretch]:
    """A plain file in parts of about so many bytes, each with whole objects; together they hold what the file does."""
    with opening(path) as file:
        if kind == ".jsonl":
            start, number = 0, 1
            while data := file.read(size) + file.readline():
                yield Stretch(start, start + len(data), number)
                start, number = start + len(data), number + data.count(b"\n")
            return
        start, number = 0, 1
        for offset, line, _ in _pieces(file, split_on):
            if offset - start >= size:
                yield Stretch(start, offset, number)
                start, number = offset, line
        yield Stretch(start, path.stat().st_size, number)


def _texts(
    path: Path, split_on: str | None, on_error: Callable[[DataError], None], stretch: Stretch | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with opening(path) as file:
        for offset, number, piece in _pieces(file, split_on, stretch):
            data = piece.removeprefix(ORDER_MARK) if offset == 0 else piece
            if (text := _decode(data, path, number, offset, on_error)) is not None:
                yield number, {"text": text}


def _lines(
    path: Path, formats: str, on_error: Callable[[DataError], None], stretch: Stretch | None
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    offset, first = (stretch.start, stretch.number) if stretch else (0, 1)
    with opening(path) as file:
        if offset:
            file.seek(offset)
        for number, line in enumerate(file, start=first):
            if stretch and offset >= stretch.stop:
                return
            start, offset = offset, offset + len(line)
            data = line.removeprefix(ORDER_MARK) if number == 1 else line
            if not data.strip() or _decode(line, path, number, start, on_error) is None:
                continue
            where = f"{path}:{number}"
            try:
                value = decode_json(data)
            except ValueError as error:
                if number == 1 and data.lstrip()[:1] == b"[":  # no record of this file is one
                    cure = "name it .json if it is an array of objects"
                    raise DataError(f"{where}: {error}", allowed="one JSON object a line", cure=cure) from error
                on_error(DataError(f"{where}: {error}", allowed="one JSON object a line"))
                continue
            if (checked := _checked(value, where, "line", formats, on_error)) is not None:
                yield number, checked


def _array(path: Path, formats: str, on_error: Callable[[DataError], None]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """An array cannot be read in pieces: all of it is in memory."""
    with opening(path) as file:
        data = file.read()
    if _decode(data, path, 1, 0, on_error) is None:
        return
    try:
        values = decode_json(data.removeprefix(ORDER_MARK))
    except ValueError as error:
        cure = "name it .jsonl if it holds one object a line"
        return on_error(DataError(f"{path}: {error}", allowed="an array of objects", cure=cure))
    if not isinstance(values, list):
        what = f"{path}: the file holds {kind_of_value(values)}"
        return on_error(DataError(what, allowed=f"an array of objects, or .jsonl: {formats}"))
    for number, value in enumerate(values, start=1):
        if (checked := _checked(value, f"{path}:{number}", "element", formats, on_error)) is not None:
            yield number, checked


def _checked(
    value: Any, where: str, what: str, formats: str, on_error: Callable[[DataError], None]
) -> Mapping[str, Any] | None:
    if isinstance(value, dict):
        return value
    return on_error(DataError(f"{where}: the {what} holds {kind_of_value(value)}", allowed=f"an object: {formats}"))


def _pieces(
    file: BufferedIOBase, split_on: str | None, stretch: Stretch | None = None
) -> Iterator[tuple[int, int, bytes]]:
    """What stands between the separators, with the byte and the line where it starts; nothing there is no document."""
    separator = split_on.encode() if split_on is not None else None
    offset, number, rest = (stretch.start, stretch.number, b"") if stretch else (0, 1, b"")
    at, stop = file.seek(offset) if offset else 0, stretch.stop if stretch else sys.maxsize
    # As much again as is held: linear even in one huge document.
    while chunk := file.read(min(max(_CHUNK, len(rest)), stop - at)):
        rest, at = rest + chunk, at + len(chunk)
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


def _decode(data: bytes, path: Path, number: int, offset: int, on_error: Callable[[DataError], None]) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = number + data[: error.start].count(b"\n")
        found = f"byte 0x{data[error.start]:02x} at offset {offset + error.start} of the file"
        cure = "convert the file first, for example with iconv -f LATIN1 -t UTF-8"
        on_error(DataError(f"{path}:{line}: not UTF-8: {found}", cure=cure))
        return None
