"""Columns of numbers in files: appended a batch at a time, mapped when they are read."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, final

import numpy as np
from numpy.typing import NDArray

from thetahat.core import store

_INDEX = "columns.json"
Array = NDArray[Any]


@final
class ColumnWriter:
    """Appends to files, one for each column; a column that holds one value alone gets no file when this is closed."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._stack = folder, ExitStack()
        self._files: dict[str, BinaryIO] = {}
        self._known: dict[str, dict[str, Any]] = {}  # dtype, rows and the one value so far
        self.facts: dict[str, Any] = {}  # what else is to be known of the columns

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()
        if error is None:
            self._finish()

    def add(self, columns: Mapping[str, Array]) -> None:
        """Appends one batch; the dtype of a column is that of its first batch."""
        for name, values in columns.items():
            if name not in self._files:
                self._files[name] = self._stack.enter_context((self._folder / f"{name}.bin").open("wb"))
                self._known[name] = {"dtype": values.dtype.str, "rows": 0}
            known = self._known[name]
            self._files[name].write(np.ascontiguousarray(values, known["dtype"]).data)
            if len(values):
                low, high = values.min(), values.max()
                only = low.item() if low == high and known.get("only", low) == low else None
                known["only"] = only if known.get("only", only) is not None else None
            known["rows"] += len(values)

    def _finish(self) -> None:
        for name, known in self._known.items():
            if known.get("only") is not None or not known["rows"]:
                (self._folder / f"{name}.bin").unlink()
        store.write_json(self._folder / _INDEX, {"columns": self._known, "facts": self.facts})


def open_columns(folder: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """The columns, mapped (an array that repeats its one value takes no memory), and what else is known of them."""
    index = json.loads((folder / _INDEX).read_bytes())
    return {name: _open(folder / f"{name}.bin", known) for name, known in index["columns"].items()}, index["facts"]


def _open(path: Path, known: Mapping[str, Any]) -> Array:
    dtype, rows = np.dtype(known["dtype"]), known["rows"]
    if not rows:
        return np.empty(0, dtype)
    if known["only"] is not None:
        return np.broadcast_to(np.asarray(known["only"], dtype), rows)
    return np.memmap(path, dtype, "r", shape=(rows,)).view(np.ndarray)
