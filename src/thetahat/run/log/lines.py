"""JSON lines that another process may be writing: whole ones are read, torn ones wait, damaged ones are left out."""

import json
import os
from pathlib import Path
from typing import Any, cast, final

from thetahat.core.errors import naming_full_disk

Line = dict[str, Any]
KEPT = 256  # bytes by which a file that was cut is known


@final
class Following:
    """Reads what was added to a file of JSON lines since it last looked.

    A last line without its end is read when it is whole. A file that is not there has no lines; where it was cut, as
    on resume, it is read from its beginning again, also if it has grown since.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.num_damaged = path, 0
        self._place, self._before = 0, b""  # in bytes; those before it

    def read(self) -> tuple[list[Line], bool]:
        """The new lines, and whether they begin the file anew."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._place - len(self._before))
                if file.read(len(self._before)) != self._before:
                    self._place, self._before, self.num_damaged = 0, b"", 0
                is_first = self._place == 0
                file.seek(self._place)
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            is_gone = self._place > 0
            self._place, self._before, self.num_damaged = 0, b"", 0
            return [], is_gone
        whole = data[: data.rfind(b"\n") + 1]
        self._place += len(whole)
        self._before = (self._before + whole[-KEPT:])[-KEPT:]
        found = [decoded(line) for line in whole.splitlines()]
        self.num_damaged += sum(line is None for line in found)
        return [line for line in found if line is not None], is_first


def decoded(line: bytes) -> Line | None:
    """A line as an object; None where it is torn, or no object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return cast(Line, found) if isinstance(found, dict) else None


def whole_lines(path: Path) -> list[Line]:
    """The lines that can be read; none if there is no file."""
    return Following(path).read()[0]


def append_line(path: Path, line: Line, *, flush: bool = False) -> None:
    """Adds a line; `flush` waits until it is on disk."""
    with naming_full_disk(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")
        if flush:
            file.flush()
            os.fsync(file.fileno())
