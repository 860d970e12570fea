"""Values as JSON holds them, and texts as a shell passes them."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import PurePath, PurePosixPath
from typing import Any


def as_json(value: Any) -> Any:
    """The value as JSON holds it, whatever is in it.

    What has a `to_dict` is what that says, and any other dataclass its fields. A number that is not finite is text
    ("nan", "inf"), since JSON has none.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if hasattr(value, "to_dict"):
        return as_json(value.to_dict())
    if is_dataclass(value):
        return fields_as_json(value)
    if isinstance(value, Mapping):
        return {key: as_json(one) for key, one in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(one) for one in value]
    return value


def fields_as_json(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name; the beginning of a `to_dict` that leaves out or adds something."""
    return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number and what it counts: "1 row", "1,200 rows"; `many` is the plural where that is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def duration(seconds: float) -> str:
    """A time in its two largest units: "45 s", "3 min 20 s", "5 h 7 min", "2 d 3 h"."""
    left, units = round(seconds), (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    first = next((place for place, (_, size) in enumerate(units) if left >= size), len(units) - 1)
    parts: list[str] = []
    for name, size in units[first : first + 2]:
        number, left = divmod(left, size)
        parts += [f"{number} {name}"] if number or not parts else []
    return " ".join(parts)


def sized(num_bytes: int | float) -> str:
    """Bytes in the unit in which they have one to three digits before the point: "512 bytes", "3.4 MB", "120 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 999.5:
            return f"{num_bytes:,.0f} {unit}" if unit == "bytes" or num_bytes >= 99.5 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:,.1f} TB"


def tidied(path: str) -> str:
    """The path as it is written shortest: "docs" for "docs/", "./docs" and "docs//".

    `..` stays, since it may lead through a link. URLs and globs stay as they are, and `./` does before what would be no
    path without it: -, none, hash:0.1.
    """
    if not path or "://" in path or any(character in path for character in "*?["):
        return path
    short = PurePosixPath(path).as_posix()
    is_word = short in {"-", "none"} or ":" in short.partition("/")[0]
    return f"./{short}" if is_word and path.startswith("./") else short


def shorter(text: str, most: int) -> str:
    """The text, or as much of its beginning as has `most` characters with the dots behind it."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def unescaped(text: str) -> str:
    r"""The text of an option with its escapes read.

    `\n`, `\t`, `\r` stand for line break, tabulator and return, which a shell does not make; `\\` for a backslash.
    """
    return re.sub(r"\\[\\ntr]", lambda found: _ESCAPES[found[0]], text)


_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", "\\\\": "\\"}
