"""One file as records: what it holds, an object at a time, and what each object is."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

from thetahat.core.errors import DataError
from thetahat.data.config import ReadOptions
from thetahat.data.read.form.shape import known_columns
from thetahat.data.read.named.kind import holds_objects, kind_of_file
from thetahat.data.read.objects import Stretch, read_objects
from thetahat.data.read.record import Record, parse_records
from thetahat.data.read.table.delimited import DELIMITED, with_weight

PLAIN = ReadOptions()


@final
class RecordFile:
    """A file whose records are asked for; `label` is the name by which they know it."""

    def __init__(self, path: Path, label: str, options: ReadOptions = PLAIN) -> None:
        self._path, self._label, self._options = path, label, options
        self._how = options if holds_objects(path) else PLAIN
        self._is_delimited = kind_of_file(path) in DELIMITED

    def objects(
        self, on_error: Callable[[DataError], None], stretch: Stretch | None = None
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """What it holds, see `read_objects`."""
        columns = known_columns(self._options.columns)
        return read_objects(self._path, self._options.split_on, columns=columns, on_error=on_error, stretch=stretch)

    def records(self, number: int, fields: Mapping[str, Any]) -> list[Record]:
        """The records of one of its objects; raises DataError where it is none."""
        fields = with_weight(fields, self._options.columns) if self._is_delimited else fields
        where, id = f"{self._path}:{number}", f"{self._label}:{number}"
        return parse_records(fields, where, self._how, id=id, source=self._label)
