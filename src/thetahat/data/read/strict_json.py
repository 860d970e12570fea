"""JSON, read as strictly as its records are meant: what other readers guess at is named."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

_KEY = re.compile(rb'"[ \t\r\n]*:')  # what ends a key, or stands in a text
_HALF = re.compile("[\ud800-\udfff]")


def decode_json(data: bytes) -> Any:
    """The value that UTF-8 bytes hold. Raises ValueError that says why they hold none.

    A key that stands twice in one object is refused: readers differ in which of the two counts.
    """
    try:
        value = msgspec.json.decode(data)
        if len(_KEY.findall(data)) != _count_keys(value):  # a text may hold what looks like a key
            json.loads(data, object_pairs_hook=_distinct)
    except msgspec.DecodeError as error:
        raise ValueError(f"not JSON: {_why_not(data) or error}") from error
    except RecursionError as error:
        raise ValueError("not JSON that is read here: lists and objects too deep in each other") from error
    return value


def _count_keys(value: Any) -> int:
    if isinstance(value, Mapping):
        some = cast("Mapping[str, Any]", value)
        return len(some) + sum(map(_count_keys, some.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return sum(map(_count_keys, cast("Sequence[Any]", value)))
    return 0


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


def _why_not(data: bytes) -> str:
    """What Python's reader, which is less strict, takes here and should not."""
    constants: list[str] = []
    try:
        value = json.loads(data, parse_constant=constants.append)
        half = _HALF.search(json.dumps(value, ensure_ascii=False))
    except (ValueError, RecursionError):
        return ""
    if constants:
        return f"{constants[0]}, where a number or null belongs"
    return f"half a surrogate pair, \\u{ord(half[0]):04x}, which is no character" if half else ""


def kind_of_value(value: Any) -> str:
    """What JSON calls it."""
    names = {type(None): "null", bool: "true or false", list: "a list", dict: "an object", str: "a string"}
    names |= {int: "a number", float: "a number", bytes: "bytes"}
    if value == "":
        return "an empty string"
    return names.get(type(value), f"of the type {type(value).__name__}")
