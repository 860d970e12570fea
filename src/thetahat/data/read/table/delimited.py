"""CSV and TSV: a row of names, then a row for each object; read a line at a time, by the rules of RFC 4180."""

import csv
import re
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, final

from thetahat.core.errors import DataError
from thetahat.data.read.opening import opening
from thetahat.data.read.table.rows import UNREAD

DELIMITED = (".csv", ".tsv")
_MOST_CHARACTERS = 1 << 24  # of one cell: a quote that is never closed must not take all of a file into memory
_BETWEEN = (",", ";", "\t", "|")
_CALLED = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_BYTE = re.compile("[\udc80-\udcff]")  # as `surrogateescape` writes one that is not UTF-8
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_RECODE = "convert the file first, for example with iconv -f LATIN1 -t UTF-8"
_CURE = (
    'a cell with the delimiter, a quote or a line break in it stands in quotes, and a quote in it twice: "a ""b"", c"'
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What stands between the cells of a file, and the names in its first row."""

    delimiter: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(map(repr, self.names))
        return f"{_CALLED[self.delimiter]} between cells, the first row names the columns {names}"


def dialect_of(path: Path, kind: str) -> Dialect:
    """How a file is written: a .tsv with tabs, a .csv with what parts its first row into the most cells.

    Raises DataError where there is no first row, or two columns have one name.
    """
    with _lines(path) as lines:
        head = _Rows(lines).first()
    if not head:
        raise DataError(f"{path} is empty", cure="remove it, or write some text into it")
    found = [_split(head, delimiter) for delimiter in (("\t",) if kind == ".tsv" else _BETWEEN)]
    best = max(found, key=lambda names: len(names))
    names = tuple(name.strip() for name in best)
    if not all(map(_is_unicode, names)):
        raise DataError(f"{path}:1: not UTF-8", cure=_RECODE)
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise DataError(f"{path}: the column {twice[0]!r} stands twice", cure="the first row names the columns")
    return Dialect("\t" if kind == ".tsv" else _BETWEEN[found.index(best)], names)


def read_delimited(
    path: Path, kind: str, columns: Collection[str] | None, on_error: Callable[[DataError], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .csv or .tsv, with the line where each begins, as objects: every cell a text, an empty one null.

    Of `columns` (None: all) those that are there are read; the others are UNREAD. `on_error` gets a row that has
    another number of cells than the first, a quote that is not closed, or bytes that are not UTF-8; the next row begins
    with the next line then.
    """
    dialect = dialect_of(path, kind)
    unread = {name: UNREAD for name in dialect.names if columns is not None and name not in columns}
    with _lines(path) as lines:
        rows = _Rows(lines)
        rows.first()
        for number, cells in rows.rest(dialect.delimiter, path, on_error):
            if len(cells) != len(dialect.names):
                what = f"{path}:{number}: {len(cells)} cells, where the first row has {len(dialect.names)}"
                on_error(DataError(what, cure=_CURE))
            elif not all(map(_is_unicode, cells)):
                on_error(DataError(f"{path}:{number}: not UTF-8", cure=_RECODE))
            else:
                yield number, {name: cell or None for name, cell in zip(dialect.names, cells, strict=True)} | unread


@contextmanager
def _lines(path: Path) -> Generator[Iterator[str]]:
    """The lines of a file with what ends each; a byte that is not UTF-8 stands for itself."""
    with opening(path) as file:
        binary: Any = file
        yield TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline="")


def with_weight(fields: Mapping[str, Any], columns: Mapping[str, str] | None) -> Mapping[str, Any]:
    """A row with its weight as a number, where its cell holds one: cells are texts."""
    name = (columns or {}).get("weight", "weight")
    cell = fields.get(name)
    if not isinstance(cell, str) or not _NUMBER.fullmatch(cell.strip()):
        return fields
    return {**fields, name: float(cell)}


@final
class _Rows:
    """Rows out of lines: where one cannot be read, its first line alone is given up."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._waiting = deque[str]()  # lines that were read for a row that was none
        self._lines, self._taken = lines, list[str]()
        self._number = 1  # of the next line that is taken

    def first(self) -> list[str]:
        """The lines of the first row, as far as its quotes tell where it ends."""
        head: list[str] = []
        for line in self._fed():
            head += [line] if head or line.strip() else []
            if head and sum(one.count('"') for one in head) % 2 == 0:
                break
        self._taken = []
        return head

    def rest(
        self, delimiter: str, path: Path, on_error: Callable[[DataError], None]
    ) -> Iterator[tuple[int, Sequence[str]]]:
        """The other rows, each with the number of its first line; lines without a cell are none."""
        csv.field_size_limit(max(csv.field_size_limit(), _MOST_CHARACTERS))
        reader = csv.reader(self._fed(), delimiter=delimiter, strict=True)
        while True:
            start = self._number
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                on_error(DataError(f"{path}:{start}: no row of cells: {error}", cure=_CURE))
                others = self._taken[1:]
                self._waiting.extendleft(reversed(others))
                self._number -= len(others)
                cells = []
            self._taken = []
            if cells:
                yield start, cells

    def _fed(self) -> Iterator[str]:
        while line := self._waiting.popleft() if self._waiting else next(self._lines, ""):
            self._number += 1
            self._taken.append(line)
            yield line


def _split(head: Sequence[str], delimiter: str) -> list[str]:
    try:
        return next(iter(csv.reader(head, delimiter=delimiter, strict=True)), [])
    except csv.Error:
        return []


def _is_unicode(text: str) -> bool:
    """Whether no byte of it had to stand for itself."""
    return text.isascii() or _BYTE.search(text) is None
