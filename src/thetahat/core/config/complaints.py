"""What is wrong with a config, in words: where, the value, what is allowed, what to type."""

import difflib
import re
from collections.abc import Sequence
from shlex import quote
from typing import Annotated, Any, NoReturn, cast, get_args, get_origin

import msgspec

from thetahat.core.config.typed import as_typed, dotted, in_line, shown
from thetahat.core.errors import ConfigError
from thetahat.core.schema import (
    allowed,
    alternatives,
    fields,
    hint_at,
    items,
    listed_kinds,
    near_keys,
    pattern_near,
    pattern_of,
    tag,
    variants,
)

Plain = dict[str, Any]
_USUAL = ("train", "path", "template", "every", "rank")  # keys of tables that a plain value is most likely meant for


def unknown_key(path: Sequence[str], depth: int, siblings: Sequence[str], given: tuple[Any, Any]) -> ConfigError:
    """The error for a key of which the name at `depth` is none of its siblings; `given`: the root, and the value."""
    root, value = given
    above, said = dotted(path[:depth]), "..." if isinstance(value, dict | list) else as_typed(value)
    known = ", ".join(siblings) if siblings else "nothing: it is a plain value"
    if any(map(str.isdigit, path[:depth])):
        close = difflib.get_close_matches(path[depth], siblings, n=1)
        near = [dotted([*path[:depth], name, *path[depth + 1 :]]) for name in close]
    else:
        near = near_keys(path, root)
    return ConfigError(
        f"unknown config key {dotted(path)!r}",
        allowed=f"below {above!r}: {known}" if above else known,
        cure=" or ".join(f"{key}={said}" for key in near),
    )


def not_below(path: Sequence[str], depth: int, place: Any, root: Any) -> ConfigError:
    """The error for a key below a plain value, or for an item that a list does not have."""
    what, key = f"{dotted(path)!r} goes below {path[depth - 1]!r}", dotted(path[:depth])
    if not isinstance(place, list):
        return ConfigError(f"{what}, which is the plain value {place!r}")
    number, name = len(cast("list[Any]", place)), path[depth]
    if name.isdigit():
        return ConfigError(
            f"{what}, which is a list of {number}: {name} is none of its items, counted from 0",
            allowed=", ".join(map(str, range(number))) or "none: the list is empty",
            cure=f"{dotted([key, str(number - 1), *path[depth + 1 :]])}=..." if number else f"{key}=[...]",
        )
    below = fields(items(hint_at(root, path[:depth])))
    cure = f"{dotted([key, '0', *path[depth:]])}=..." if name in below and number else f"{key}=[...]"
    return ConfigError(f"{what}, which is a list", allowed="the number of an item, counted from 0", cure=cure)


def complain(error: msgspec.ValidationError, plain: Plain, root: Any) -> NoReturn:
    """Raises ConfigError with what msgspec found: where, the value, what is allowed, what to type."""
    what, _, where = str(error).partition(" - at `$")
    path = re.findall(r"[^.\[\]]+|(?<=\[)\.\.\.", where.strip("`"))
    value, hint = _value_at(plain, path), hint_at(root, path)
    path = [name for name in path if name != "..."]  # msgspec does not say which name of a table of free names
    if match := re.fullmatch(r"Object (?:missing required|contains unknown) field `(.*)`", what):
        raise (_missing if "missing" in what else _of_another_variant)(path, match[1], value, hint) from error
    if isinstance(error.__cause__, ValueError):  # raised by a config itself, about its own values
        raise _placed(error.__cause__, path, hint) from error
    if path[-1:] == ["kind"] and (listed := _kinds_at(plain, path[:-2])):
        path, value, hint = path[:-2], pattern_of(listed), hint_at(root, path[:-2])
    raise ConfigError(
        f"{dotted(path)}={shown(value)} does not fit", allowed=allowed(hint), cure=_near_value(path, value, hint)
    ) from error


def _kinds_at(plain: Plain, path: list[str]) -> list[str]:
    """The kinds of a list whose tables say nothing else, as a pattern makes it; empty: it is another."""
    listed = _value_at(plain, path)
    is_pattern = isinstance(listed, list) and all(list(one) == ["kind"] for one in cast("list[Plain]", listed))
    return [str(one["kind"]) for one in cast("list[Plain]", listed)] if is_pattern else []


def _missing(path: list[str], name: str, value: Any, hint: Any) -> ConfigError:
    key, choices, said = dotted([*path, name]), allowed(fields(hint).get(name, str)), "..."
    if name == "kind" and isinstance(value, dict):
        fitting = [one for one in variants(hint) if set(cast(Plain, value)) <= set(fields(one))]
        said = tag(fitting[0]) if fitting else said
    return ConfigError(f"{key} is missing", allowed=choices, cure=f"{key}={said}")


def _of_another_variant(path: list[str], name: str, value: Any, hint: Any) -> ConfigError:
    chosen = str(value.get("kind", ""))
    owners = [tag(variant) for variant in variants(hint) if name in fields(variant)]
    known = [key for variant in variants(hint) if tag(variant) == chosen for key in fields(variant)]
    under = f" where {dotted([*path, 'kind'])}={chosen}" if chosen else ""
    return ConfigError(
        f"unknown config key {dotted([*path, name])!r}{under}",
        allowed=", ".join(dict.fromkeys(known)),
        cure=" or ".join(f"{dotted([*path, 'kind'])}={owner}, which has it" for owner in owners if owner),
    )


def _placed(cause: ValueError, path: list[str], hint: Any) -> ConfigError:
    """The complaint of a config below the root, with its place in front unless it says so itself, and in its cure."""
    what = cause.what if isinstance(cause, ConfigError) else str(cause)
    allowed, cure = (cause.allowed, cause.cure) if isinstance(cause, ConfigError) else ("", "")
    subject = re.split(r"[^\w]", what, maxsplit=1)[0]
    if path and subject not in path:
        what = f"{dotted(path)}{'.' if subject in fields(hint) else ': '}{what}"
    if path and (known := "|".join(map(re.escape, fields(hint)))):
        cure = re.sub(rf"(?<![\w.{{,])({known})(?=[=.])", rf"{dotted(path)}.\1", cure)
    return ConfigError(what, allowed=allowed, cure=cure)


def _near_value(path: list[str], value: Any, hint: Any) -> str:
    if isinstance(value, dict | list):
        return ""
    key = dotted(path)
    if variants(hint):
        return _in_table(key, value, hint)
    if listed := listed_kinds(hint):
        near = pattern_near(str(value), listed)
        return f"{key}={quote(near)}" if near else ""
    kinds = [get_origin(kind) or kind for kind in alternatives(hint)]
    if dict in kinds:
        return _in_free_table(key, value, hint)
    if kinds in ([tuple], [list]) and _takes(items(hint), value):
        return f"{key}={quote(in_line([value]))}"
    if not isinstance(value, str):
        return ""
    near = difflib.get_close_matches(value, re.split(r", | or ", allowed(hint)), n=1)
    return f"{key}={near[0]}" if near else ""


def _in_table(key: str, value: Any, hint: Any) -> str:
    """What to type for a plain value where a table is expected: the key in it that it was most likely meant for.

    An item of a list, and what is in one, is set whole, since the list may have been typed in the same line.
    """
    is_in_list = any(map(str.isdigit, key.split(".")))
    if (found := _meant(value, hint)) is None:
        return ""
    below, meant = found
    if is_in_list and meant is not None:
        for name in reversed(below):
            meant = {name: meant}
        return f"{key}={quote(in_line(meant))}"
    return f"{dotted([key, *below])}={'...' if meant is None else as_typed(meant)}"


def _meant(value: Any, hint: Any) -> tuple[list[str], Any] | None:
    """The path in a table, and the value there; None in its place: any."""
    if value in map(tag, variants(hint)):
        return ["kind"], value
    below = {name: one for name, one in fields(hint).items() if name != "kind"}
    for name, one in below.items():
        if value in map(tag, variants(one)):
            return [name, "kind"], value
    ordered = sorted(below, key=lambda name: _USUAL.index(name) if name in _USUAL else len(_USUAL))
    if taken := [name for name in ordered if _takes(below[name], value)]:
        return [taken[0]], value
    usual = [name for name in ordered if name in _USUAL]
    return ([usual[0]], None) if usual else None


def _in_free_table(key: str, value: Any, hint: Any) -> str:
    """The same where the names in the table are free; an annotation may have an example of one."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    examples = [one for note in notes if isinstance(note, msgspec.Meta) for one in note.examples or ()]
    name, held = next(iter(examples), "NAME"), items(hint)
    if variants(held):
        return _in_table(f"{key}.{name}", value, held)
    return f"{key}.{name}={as_typed(value)}" if _takes(held, value) else f"{key}.{name}=..."


def _takes(hint: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _value_at(plain: Any, path: Sequence[str]) -> Any:
    for name in path:
        if isinstance(plain, dict) and name in plain:
            plain = cast(Plain, plain)[name]
        elif isinstance(plain, list) and name.isdigit():
            plain = cast("list[Any]", plain)[int(name)]
    return plain
