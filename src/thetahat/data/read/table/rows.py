"""The rows of Parquet and Arrow files, a few at a time: never is a whole table in memory."""

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import pyarrow as pa
from pyarrow import ipc, parquet

from thetahat.core.errors import DataError
from thetahat.data.read.strict_json import decode_json

TABLES = (".parquet", ".arrow")
_BATCH_BYTES = 1 << 22  # of the columns that are read, about
_BATCH_ROWS = 1024
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an Arrow stream
_FILE = b"ARROW1"  # how an Arrow file begins, which a stream does not
Convert = Callable[[Any], Any]


class _Unread:
    def __repr__(self) -> str:
        return "a column that is not read"


UNREAD: Final = _Unread()
"""Stands in a row for a column that nobody asked for."""


class _Broken:
    """Stands in a row for a value that cannot be read, and says why."""

    def __init__(self, why: str) -> None:
        self.why = why


def read_rows(
    path: Path, columns: Collection[str] | None, on_error: Callable[[DataError], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .parquet or .arrow file, numbered from 1, as objects that JSON could hold.

    Of `columns` (None: all that JSON can hold) those that are there are read; the others are UNREAD in each row. A null
    within a struct is an absent field, as tables have every field in every row. Labels of `datasets` (ClassLabel) are
    their names. Raises DataError where the file is damaged; `on_error` gets rows with a value that cannot be read.
    """
    try:
        yield from _rows(path, columns, on_error)
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: permission denied") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}", cure="copy or download it again") from error


def holds_json(kind: Any) -> bool:
    """Whether JSON has values like those of an Arrow type."""
    if pa.types.is_struct(kind):
        return all(holds_json(field.type) for field in kind)
    if _is_list(kind) or pa.types.is_dictionary(kind):
        return holds_json(kind.value_type)
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer)
    tests = (*tests, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
    return isinstance(kind, pa.JsonType) or any(test(kind) for test in tests)


def _rows(
    path: Path, columns: Collection[str] | None, on_error: Callable[[DataError], None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    schema, batches = _parquet(path, columns) if path.suffix.lower() == ".parquet" else _arrow(path)
    names: list[str] = schema.names
    if twice := [name for name in names if names.count(name) > 1]:
        raise DataError(f"{path}: the column {twice[0]!r} stands twice")
    if b"thetahat" in (schema.metadata or {}):
        raise DataError(f"{path}: a ledger or a table of tokens, which holds no texts", cure="the texts themselves")
    unread = dict.fromkeys(set(names) - set(_chosen(schema, columns)), UNREAD)
    converts = {name: _convert(schema, name) for name in names if name not in unread}
    for batch in batches:
        found = [_values(batch.column(name), convert) for name, convert in converts.items()]
        rows = zip(*found, strict=True) if found else ((),) * batch.num_rows
        for row in rows:
            number += 1
            broken = [(name, one.why) for name, one in zip(converts, row, strict=True) if isinstance(one, _Broken)]
            if broken:
                on_error(DataError(f"{path}:{number}: the column {broken[0][0]!r}: {broken[0][1]}"))
            else:
                yield number, {name: value for name, value in zip(converts, row, strict=True)} | unread


def _chosen(schema: Any, columns: Collection[str] | None) -> list[str]:
    if columns is None:
        return [field.name for field in schema if holds_json(field.type)]
    return [name for name in schema.names if name in columns]


def _parquet(path: Path, columns: Collection[str] | None) -> tuple[Any, Iterator[Any]]:
    file = parquet.ParquetFile(path, memory_map=True)  # what is not read is not in memory
    schema, facts = file.schema_arrow, file.metadata
    groups = [facts.row_group(index) for index in range(facts.num_row_groups)]
    num_bytes = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=1)  # a row
    rows = min(max(_BATCH_BYTES // max(num_bytes, 1), 1), _BATCH_ROWS)
    return schema, file.iter_batches(rows, columns=_chosen(schema, columns), use_threads=False)


def _arrow(path: Path) -> tuple[Any, Iterator[Any]]:
    """Of a stream, as `datasets` writes it, or of a file; either is mapped, not read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        is_file = file.read(len(_FILE)) == _FILE
        file.seek(-min(size, len(_END)), 2)
        is_whole = is_file or file.read() == _END
    if not is_whole:
        raise DataError(f"{path} is damaged: it does not end as an Arrow stream does", cure="copy or download it again")
    source = pa.memory_map(str(path))
    if is_file:
        reader = ipc.open_file(source)
        return reader.schema, _slices(map(reader.get_batch, range(reader.num_record_batches)))
    stream = ipc.open_stream(source)
    return stream.schema, _slices(stream)


def _slices(batches: Any) -> Iterator[Any]:
    for batch in batches:
        num_bytes = max(batch.nbytes // max(batch.num_rows, 1), 1)
        rows = min(max(_BATCH_BYTES // num_bytes, 1), _BATCH_ROWS)
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _values(column: Any, convert: Convert | None) -> list[Any]:
    try:
        found = column.to_pylist()
    except (UnicodeDecodeError, pa.ArrowException, ValueError, OverflowError):
        found = [_value(one) for one in column]
    return found if convert is None else [_converted(value, convert) for value in found]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return _Broken(f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}")
    except (pa.ArrowException, ValueError, OverflowError) as error:
        return _Broken(_first_line(error))


def _converted(value: Any, convert: Convert) -> Any:
    if isinstance(value, _Broken):
        return value
    try:
        return convert(value)
    except ValueError as error:
        return _Broken(_first_line(error))


def _convert(schema: Any, name: str) -> Convert | None:
    """What makes an object of a value as pyarrow gives it; None: it is one."""
    if labels := _labels(schema.metadata or {}).get(name):
        return lambda value: _label(value, labels)
    return _plain(schema.field(name).type)


def _plain(kind: Any) -> Convert | None:
    if isinstance(kind, pa.JsonType):
        return lambda text: None if text is None else decode_json(text.encode())
    if pa.types.is_struct(kind):
        below = {field.name: _plain(field.type) for field in kind}
        return lambda value: None if value is None else _present(value, below)
    if _is_list(kind):
        convert = _plain(kind.value_type)
        return convert and (lambda value: None if value is None else [convert(one) for one in value])
    return _plain(kind.value_type) if pa.types.is_dictionary(kind) else None


def _present(value: dict[str, Any], below: dict[str, Convert | None]) -> dict[str, Any]:
    """A struct without what is null."""
    converts = ((name, one, below.get(name)) for name, one in value.items() if one is not None)
    return {name: one if convert is None else convert(one) for name, one, convert in converts}


def _is_list(kind: Any) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(kind) for test in (*tests, pa.types.is_list_view, pa.types.is_large_list_view))


def _labels(metadata: dict[bytes, bytes]) -> dict[str, Sequence[str]]:
    """The names of the labels in each column of them, as `datasets` notes them in a schema."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        kinds = {name: cast("dict[str, Any]", kind) for name, kind in features.items() if isinstance(kind, dict)}
        return {name: kind["names"] for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, AttributeError, ValueError):
        return {}


def _label(value: Any, names: Sequence[str]) -> Any:
    if value is None or value == -1:  # as `datasets` writes that there is none
        return None
    if not isinstance(value, int) or not 0 <= value < len(names):
        raise ValueError(f"the label {value}, where there are {len(names)}")
    return names[value]


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".")
