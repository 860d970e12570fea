"""The one reader of text: what a file holds, an object at a time."""

from collections.abc import Callable, Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from thetahat.core.errors import DataError
from thetahat.data.read.files import kind_of_file
from thetahat.data.read.opening import ORDER_MARK, opening
from thetahat.data.read.record import FORMATS, kind_of_value

_CHUNK = 1 << 20


def refuse(error: DataError) -> NoReturn:
    """What is done about something that cannot be read, unless a caller knows better."""
    raise error


def read_objects(
    path: Path,
    split_on: str | None = None,
    *,
    formats: str = FORMATS,
    on_error: Callable[[DataError], None] = refuse,
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """What a file holds, in order: the number of the line where it starts (of an array: its place), and the object.

    A .txt holds a text, {"text": ...}, or several with `split_on` between them; a .jsonl an object a line; a .json an
    array of objects. `on_error` gets what is no object; where it returns, reading goes on behind that.
    """
    match kind_of_file(path):
        case ".txt":
            return _texts(path, split_on, on_error)
        case ".json":
            return _array(path, formats, on_error)
        case _:
            return _lines(path, formats, on_error)


def _texts(
    path: Path, split_on: str | None, on_error: Callable[[DataError], None]
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with opening(path) as file:
        for offset, number, data in _pieces(file, split_on):
            if (text := _decode(data, path, number, offset, on_error)) is not None:
                yield number, {"text": text}


def _lines(path: Path, formats: str, on_error: Callable[[DataError], None]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    offset = 0
    with opening(path) as file:
        for number, line in enumerate(file, start=1):
            start, offset = offset, offset + len(line)
            data = line.removeprefix(ORDER_MARK) if number == 1 else line
            if not data.strip() or _decode(line, path, number, start, on_error) is None:
                continue
            where = f"{path}:{number}"
            try:
                value = msgspec.json.decode(data)
            except (msgspec.DecodeError, RecursionError) as error:
                cure = "name it .json if it is an array of objects" if number == 1 and data.lstrip()[:1] == b"[" else ""
                on_error(DataError(f"{where}: not JSON: {error}", allowed="one JSON object a line", cure=cure))
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
        values = msgspec.json.decode(data.removeprefix(ORDER_MARK))
    except (msgspec.DecodeError, RecursionError) as error:
        cure = "name it .jsonl if it holds one object a line"
        return on_error(DataError(f"{path}: not JSON: {error}", allowed="an array of objects", cure=cure))
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


def _pieces(file: BufferedIOBase, split_on: str | None) -> Iterator[tuple[int, int, bytes]]:
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


def _decode(data: bytes, path: Path, number: int, offset: int, on_error: Callable[[DataError], None]) -> str | None:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = number + data[: error.start].count(b"\n")
        found = f"byte 0x{data[error.start]:02x} at offset {offset + error.start} of the file"
        cure = "convert the file first, for example with iconv -f LATIN1 -t UTF-8"
        on_error(DataError(f"{path}:{line}: not UTF-8: {found}", cure=cure))
        return None
