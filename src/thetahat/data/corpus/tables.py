"""The tables of a corpus in files that are mapped: nothing of them is copied when a corpus is opened."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, final

import numpy as np
import pyarrow as pa

from thetahat.data.corpus.columns import Array, ColumnWriter, open_columns
from thetahat.data.corpus.corpus import SCHEMAS, Table

_DTYPES = {pa.int64(): np.int64, pa.float64(): np.float64, pa.bool_(): np.bool_}
NUMBERS = {
    f"{table}.{field.name}": _DTYPES[field.type]
    for table, schema in SCHEMAS.items()
    for field in schema
    if field.type in _DTYPES
}
_FEW = {"documents.source", "documents.notes"}  # texts of which most are the same: kept as numbers of values


@final
class TableWriter:
    """Appends batches of the tables of a corpus, whose running numbers are those of the whole corpus.

    A number is written as it is, a text as its end and its bytes, and what has few values as the number of the value.
    """

    def __init__(self, folder: Path) -> None:
        self._columns = ColumnWriter(folder)
        self._values: dict[str, dict[str, int]] = {}  # of what has few, with their numbers
        self._sizes: dict[str, int] = {}  # bytes of texts so far

    def __enter__(self) -> "TableWriter":
        self._columns.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._columns.facts = {name: list(values) for name, values in self._values.items()}
        self._columns.__exit__(kind, error, at)

    def write(self, tables: Mapping[str, Table]) -> None:
        """Appends one batch of each table of SCHEMAS."""
        for table, schema in SCHEMAS.items():
            for field in schema:
                column = tables[table][field.name].combine_chunks()
                self._columns.add(self._arrays(f"{table}.{field.name}", column))

    def _arrays(self, name: str, column: Table) -> dict[str, Array]:
        if name in NUMBERS:
            return {name: column.to_numpy(zero_copy_only=False)}
        if name in _FEW or pa.types.is_dictionary(column.type):
            encoded, values = column.dictionary_encode(), self._values.setdefault(name, {})
            number = [values.setdefault(value, len(values)) for value in encoded.dictionary.to_pylist()]
            return {name: np.array(number, np.int32)[encoded.indices.to_numpy()]}
        if pa.types.is_fixed_size_binary(column.type):
            width = column.type.byte_width
            return {name: _bytes(column.buffers()[1], column.offset * width, len(column) * width)}
        ends = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
        is_first, before = name not in self._sizes, self._sizes.get(name, 0)
        first, last = (int(ends[0]), int(ends[-1])) if len(column) else (0, 0)
        self._sizes[name] = before + last - first
        edges = ends[0 if is_first else 1 :].astype(np.int64) - first + before
        return {f"{name}.edges": edges, name: _bytes(column.buffers()[2], first, last - first)}


def _bytes(data: Any, start: int, size: int) -> Array:
    return np.frombuffer(data, np.uint8, size, start) if size else np.empty(0, np.uint8)


def open_tables(folder: Path) -> tuple[dict[str, Table], dict[str, Array]]:
    """The texts of the tables, and the numbers by `table.name`, as a Corpus takes them."""
    columns, values = open_columns(folder)
    tables = {
        table: pa.table({field.name: _column(f"{table}.{field.name}", field.type, columns, values) for field in texts})
        for table, schema in SCHEMAS.items()
        if (texts := [field for field in schema if f"{table}.{field.name}" not in NUMBERS])
    }
    return tables, {name: columns[name] for name in NUMBERS}


def _column(name: str, kind: Any, columns: Mapping[str, Array], values: Mapping[str, list[str]]) -> Table:
    if name in _FEW or pa.types.is_dictionary(kind):
        number = columns[name]
        short = number.astype(np.int8) if len(values[name]) == 1 else number  # one value took no file
        return pa.DictionaryArray.from_arrays(pa.array(short), pa.array(values[name], pa.string()))
    data = pa.py_buffer(np.ascontiguousarray(columns[name]))
    if pa.types.is_fixed_size_binary(kind):
        return pa.Array.from_buffers(kind, len(columns[name]) // kind.byte_width, [None, data])
    edges = np.ascontiguousarray(columns[f"{name}.edges"])
    return pa.Array.from_buffers(pa.large_string(), len(edges) - 1, [None, pa.py_buffer(edges), data])
