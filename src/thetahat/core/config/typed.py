"""Values as they are typed behind KEY=, in both directions."""

import tomllib
from collections.abc import Sequence
from typing import Any, Literal, cast, get_origin

import tomli_w

from thetahat.core.schema import alternatives, items, kinds_in, listed_kinds


def typed(value: Any) -> str:
    """A value as it is typed behind KEY=: `none`, TOML on one line, or text that would be read as nothing else."""
    if value is None:
        return "none"
    if (
        isinstance(value, str)
        and value_of(value, str) == value
        and value not in ("", "none")
        and value == value.strip()
    ):
        return value
    return in_line(value)


def in_line(value: Any) -> str:
    """A value as TOML on one line."""
    if isinstance(value, dict):
        pairs = [
            _assigned(name).removesuffix("0") + in_line(one) for name, one in cast("dict[str, Any]", value).items()
        ]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(in_line, cast('list[Any]', value)))}]"
    return _assigned("value", value).removeprefix("value = ")


def _assigned(name: str, value: Any = 0) -> str:
    return tomli_w.dumps({name: value}).rstrip("\n")


def value_of(text: str, hint: Any) -> Any:
    """What a text behind KEY= means, where a value of this type is expected."""
    kinds = alternatives(hint)
    if text == "none" and type(None) in kinds:
        return None
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return _listed(text, hint)
    if isinstance(value, str):
        return _listed(value, hint)
    if isinstance(value, float) and value.is_integer() and int in kinds and float not in kinds:
        return int(value)  # max_tokens=1e6
    is_text = str in kinds and not isinstance(value, str | list | dict) and type(value) not in kinds
    return text if is_text else value  # data.train=2024 names a file


def _listed(text: str, hint: Any) -> Any:
    """The text; where only a list fits, that list: the text alone, or [a,b], whose quotes a shell took away.

    Of names to choose from also a,b, and of variants their kinds, some several times: 3x delta, 1x attention.
    """
    kinds, item = alternatives(hint), alternatives(items(hint))
    if listed_kinds(hint) and (listed := kinds_in(text)):
        return [{"kind": kind} for kind in listed]
    if str in kinds or not any(get_origin(kind) in (tuple, list) for kind in kinds):
        return text
    has_names = any(get_origin(kind) is Literal for kind in item)
    is_bracketed = text.startswith("[") and text.endswith("]")
    if not (is_bracketed or has_names):
        return [text] if str in item else text
    parts = (text[1:-1] if is_bracketed else text).split(",")
    return [part.strip().strip("\"'") for part in parts if part.strip()]


def as_typed(value: Any) -> str:
    """A value that came as text as it came, and any other as it is shown."""
    return value if isinstance(value, str) else shown(value)


def shown(value: Any) -> str:
    """A value as an error shows it."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def dotted(path: Sequence[str]) -> str:
    """A path as a key."""
    return ".".join(path)
