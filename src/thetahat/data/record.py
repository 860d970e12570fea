"""What a user writes, one per line, checked where it is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from thetahat.core.errors import DataError

_FORMATS = '{"text": ...}, {"prompt": ..., "completion": ...} or {"messages": [...]}, each on one line'
_MARKS = {
    "text": "text",
    "prompt": "prompt and completion",
    "completion": "prompt and completion",
    "messages": "messages",
}


@dataclass(frozen=True, slots=True)
class Record:
    """One text whose likelihood counts."""

    text: str
    id: str
    document: str  # the cluster for intervals
    source: str
    weight: float = 1.0


def parse_record(line: bytes, where: str, *, id: str, source: str) -> Record:
    """The record that a line of JSON holds, with this id and source where it brings none; errors name `where`."""
    fields = _object(line, where)
    _check_format(fields, where)
    id = _identity(fields.get("id"), where) or id
    return Record(
        text=check_text(fields["text"], where),
        id=id,
        document=id,
        source=_source(fields.get("source"), where) or source,
        weight=_weight(fields.get("weight"), where),
    )


def check_text(text: Any, where: str) -> str:
    """The text, if there is any and it is Unicode."""
    if not isinstance(text, str):
        raise DataError(f"{where}: the text is {_kind(text)}", allowed="a string")
    if not text:
        raise DataError(f"{where}: the document is empty", cure="remove it: it has nothing to predict")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: half a surrogate pair at character {error.start}", allowed="any Unicode text"
        ) from error
    return text


def _object(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}", allowed="one JSON object a line") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: the line holds {_kind(value)}", allowed=f"an object: {_FORMATS}")
    return value


def _check_format(fields: Mapping[str, Any], where: str) -> None:
    formats = sorted({_MARKS[key] for key in fields if key in _MARKS})
    keys = ", ".join(repr(key) for key in fields) or "none"
    if not formats:
        raise DataError(f"{where}: a record without a text; its keys: {keys}", allowed=_FORMATS)
    if len(formats) > 1:
        raise DataError(
            f"{where}: two formats in one record, {' and '.join(formats)}; its keys: {keys}", allowed=_FORMATS
        )
    if formats != ["text"]:
        raise DataError(
            f"{where}: a record of {formats[0]}, which is recognised but not trained yet",
            allowed='this version trains on {"text": ...}',
            cure='write each record as one {"text": ...}',
        )


def _identity(value: Any, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{where}: the id is {_kind(value)}", allowed="a string that is not empty, or a whole number")
    return str(value)


def _source(value: Any, where: str) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise DataError(f"{where}: the source is {_kind(value)}", allowed="a string")


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{where}: the weight is {_kind(value)}", allowed="a number, 0 or more")
    try:
        weight = float(value)
    except OverflowError:  # an integer of hundreds of digits
        weight = math.inf
    if not math.isfinite(weight) or weight < 0:
        raise DataError(
            f"{where}: the weight is {value:.6g}" if weight != math.inf else f"{where}: the weight is infinite",
            allowed="a finite number, 0 or more",
        )
    return weight


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", list: "a list", dict: "an object", str: "a string"}
    if value == "":
        return "an empty string"
    return names.get(type(value), "a number")
