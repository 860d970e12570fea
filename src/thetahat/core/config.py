"""Configs are values: frozen, written as TOML, changed by dotted overrides, compared by digest."""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast, dataclass_transform, get_args, get_origin

import msgspec
import tomli_w

from thetahat.core.errors import ConfigError
from thetahat.core.schema import (
    allowed,
    alternatives,
    fields,
    hint_at,
    items,
    kinds_in,
    listed_kinds,
    near_keys,
    pattern_near,
    pattern_of,
    tag,
    variants,
)


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of every config: immutable, and an unknown key is an error. Variants are tagged with `kind`.

    A value that may be None is None by default, since TOML has no null: what is left out is None.
    """


Some = TypeVar("Some", bound=Config)
Plain = dict[str, Any]
_USUAL = ("train", "path", "template", "every", "rank")  # keys of tables that a plain value is most likely meant for


def to_plain(config: Config) -> Plain:
    """The config as nested dictionaries, without what is None."""
    return _without_none(msgspec.to_builtins(config))


def kind_of(config: Config) -> str:
    """The `kind` by which this variant is chosen, empty where there is no choice."""
    return tag(type(config))


def to_toml(config: Config) -> str:
    """The config as it is written beside a run."""
    return tomli_w.dumps(to_plain(config))


def from_toml(text: str, kind: type[Some], *, name: str = "the config") -> Some:
    """Reads what `to_toml` wrote, or what a person did."""
    try:
        plain = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name} is not TOML: {error}") from error
    return from_plain(plain, kind)


def from_plain(plain: Plain, kind: type[Some]) -> Some:
    """Checks every key and value; the error shows the value, what is allowed and the nearest known key."""
    _check_keys(plain, kind, (), kind)
    plain = _with_kinds(plain, kind)
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        _complain(error, plain, kind)


def _with_kinds(value: Any, hint: Any) -> Any:
    """The same where the tables of a list say their kind: those that say none are of the first."""
    if isinstance(value, dict):
        below, held = fields(hint), items(hint)
        return {name: _with_kinds(one, below.get(name, held)) for name, one in cast(Plain, value).items()}
    if isinstance(value, list | tuple) and (kinds := variants(items(hint))):
        tables = [_with_kinds(one, items(hint)) for one in cast("list[Any]", value)]
        usual = {"kind": tag(kinds[0])} if tag(kinds[0]) else {}
        return [{**usual, **one} if isinstance(one, dict) else one for one in tables]
    return value


def override(config: Some, pairs: Sequence[str]) -> Some:
    """The config with each KEY=VALUE applied, in order but for `kind`, which comes before the keys of its variant.

    Values are TOML, or text where they are not; `none` unsets.
    """
    plain, kind = to_plain(config), type(config)
    for path, text in sorted(map(_split, pairs), key=lambda pair: pair[0][-1] != "kind"):
        _check_key(path, kind, text)
        _assign(plain, path, _value(text, hint_at(kind, path)))
    return from_plain(plain, kind)


def digest(config: Config) -> str:
    """A short name for exactly these values."""
    return hashlib.sha256(msgspec.json.encode(to_plain(config), order="deterministic")).hexdigest()[:12]


def differences(ours: Config, theirs: Config) -> list[str]:
    """One line for each value that differs, `key: theirs -> ours`."""
    new, old = dict(_leaves(to_plain(ours))), dict(_leaves(to_plain(theirs)))
    return [f"{key}: {old.get(key, '(unset)')} -> {new.get(key, '(unset)')}" for key in _changed(new, old)]


def changed_keys(ours: Config, theirs: Config) -> list[str]:
    """The keys of the values that differ."""
    return _changed(dict(_leaves(to_plain(ours))), dict(_leaves(to_plain(theirs))))


def _changed(new: Plain, old: Plain) -> list[str]:
    return [key for key in [*old, *(key for key in new if key not in old)] if old.get(key) != new.get(key)]


def pairs_between(ours: Config, theirs: Config) -> list[str]:
    """The KEY=VALUE pairs by which `override` makes `ours` of `theirs`."""
    return [f"{key}={_typed(value)}" for key, value in _between(to_plain(ours), to_plain(theirs), type(ours))]


def _between(new: Plain, old: Plain, hint: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Tables are gone through key by key, those of another variant from nothing; a table of free names is one value."""
    for name in [*new, *(name for name in old if name not in new)]:
        ours, theirs, kind = new.get(name), old.get(name), fields(hint).get(name)
        if ours == theirs:
            continue
        if isinstance(ours, dict) and ours and variants(kind):
            table, before = cast(Plain, ours), cast(Plain, theirs) if isinstance(theirs, dict) else {}
            is_another = table.get("kind") != before.get("kind")
            yield from _between(table, {} if is_another else before, kind, f"{prefix}{name}.")
        else:
            yield prefix + name, _empty(kind) if ours is None else ours


def _empty(hint: Any) -> Any:
    """What stands for a key that is left out: None, or an empty table or list where there is no None."""
    kinds = [get_origin(kind) or kind for kind in alternatives(hint)]
    return None if type(None) in kinds else next((kind() for kind in (dict, tuple, list) if kind in kinds), None)


def _typed(value: Any) -> str:
    """A value as it is typed behind KEY=: `none`, TOML on one line, or text that would be read as nothing else."""
    if value is None:
        return "none"
    if isinstance(value, str) and _value(value, str) == value and value not in ("", "none") and value == value.strip():
        return value
    return _in_line(value)


def _in_line(value: Any) -> str:
    if isinstance(value, dict):
        pairs = [_assigned(name).removesuffix("0") + _in_line(one) for name, one in cast(Plain, value).items()]
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_in_line, cast('list[Any]', value)))}]"
    return _assigned("value", value).removeprefix("value = ")


def _assigned(name: str, value: Any = 0) -> str:
    return tomli_w.dumps({name: value}).rstrip("\n")


def settings(pairs: Sequence[str], kind: type[Config]) -> dict[str, Any]:
    """Each key that KEY=VALUE pairs set, with its value; a table counts as its keys."""
    values = [(".".join(path), _value(text, hint_at(kind, path))) for path, text in map(_split, pairs)]
    return dict(leaf for key, value in values for leaf in _leaves({key: value}))


def settings_of(text: str) -> dict[str, Any]:
    """Each key that a config's TOML sets, with its value."""
    return dict(_leaves(tomllib.loads(text)))


def _split(pair: str) -> tuple[list[str], str]:
    key, equals, text = pair.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise ConfigError(f"{pair!r} is not KEY=VALUE", cure="for example batch_size=16 or data.train=my.txt")
    return path, text.strip()


def _check_key(path: Sequence[str], root: Any, value: Any) -> None:
    hint: Any = root
    for depth, name in enumerate(path):
        known = fields(hint)
        if name not in known and items(hint) is None:
            raise _unknown(path, depth, sorted(known), (root, value))
        hint = known.get(name, items(hint))


def _check_keys(plain: Plain, hint: Any, above: tuple[str, ...], root: Any) -> None:
    known, held = fields(hint), items(hint)
    for name, value in plain.items():
        if name not in known and held is None:
            raise _unknown((*above, name), len(above), sorted(known), (root, value))
        if isinstance(value, dict):
            _check_keys(cast(Plain, value), known.get(name, held), (*above, name), root)


def _unknown(path: Sequence[str], depth: int, siblings: Sequence[str], given: tuple[Any, Any]) -> ConfigError:
    root, value = given
    above, typed = _dotted(path[:depth]), "..." if isinstance(value, dict | list) else _as_typed(value)
    known = ", ".join(siblings) if siblings else "nothing: it is a plain value"
    return ConfigError(
        f"unknown config key {_dotted(path)!r}",
        allowed=f"below {above!r}: {known}" if above else known,
        cure=" or ".join(f"{key}={typed}" for key in near_keys(path, root)),
    )


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else _shown(value)


def _complain(error: msgspec.ValidationError, plain: Plain, root: Any) -> NoReturn:
    """Says what msgspec found in our words: where, the value, what is allowed, what to type."""
    what, _, where = str(error).partition(" - at `$")
    path = re.findall(r"[^.\[\]]+|(?<=\[)\.\.\.", where.strip("`"))
    value, hint = _value_at(plain, path), hint_at(root, path)
    path = [name for name in path if name != "..."]  # msgspec does not say which name of a table of free names
    if match := re.fullmatch(r"Object (?:missing required|contains unknown) field `(.*)`", what):
        raise (_missing if "missing" in what else _of_another_variant)(path, match[1], value, hint) from error
    if isinstance(error.__cause__, ValueError):  # raised by a config itself, about its own values
        raise ConfigError(_placed(str(error.__cause__), path, hint)) from error
    if path[-1:] == ["kind"] and (listed := _kinds_at(plain, path[:-2])):
        path, value, hint = path[:-2], pattern_of(listed), hint_at(root, path[:-2])
    raise ConfigError(
        f"{_dotted(path)}={_shown(value)} does not fit", allowed=allowed(hint), cure=_near_value(path, value, hint)
    ) from error


def _kinds_at(plain: Plain, path: list[str]) -> list[str]:
    """The kinds of a list whose tables say nothing else, as a pattern makes it; empty: it is another."""
    listed = _value_at(plain, path)
    is_pattern = isinstance(listed, list) and all(list(one) == ["kind"] for one in cast("list[Plain]", listed))
    return [str(one["kind"]) for one in cast("list[Plain]", listed)] if is_pattern else []


def _missing(path: list[str], name: str, value: Any, hint: Any) -> ConfigError:
    key, choices = _dotted([*path, name]), allowed(fields(hint).get(name, str))
    return ConfigError(f"{key} is missing", allowed=choices, cure=f"{key}=...")


def _of_another_variant(path: list[str], name: str, value: Any, hint: Any) -> ConfigError:
    chosen = str(value.get("kind", ""))
    owners = [tag(variant) for variant in variants(hint) if name in fields(variant)]
    known = [key for variant in variants(hint) if tag(variant) == chosen for key in fields(variant)]
    under = f" where {_dotted([*path, 'kind'])}={chosen}" if chosen else ""
    return ConfigError(
        f"unknown config key {_dotted([*path, name])!r}{under}",
        allowed=", ".join(dict.fromkeys(known)),
        cure=" or ".join(f"{_dotted([*path, 'kind'])}={owner}, which has it" for owner in owners if owner),
    )


def _placed(complaint: str, path: list[str], hint: Any) -> str:
    """The complaint of a config below the root, with its place in front unless it says so itself."""
    subject = re.split(r"[^\w]", complaint, maxsplit=1)[0]
    if not path or subject in path:
        return complaint
    return f"{_dotted(path)}{'.' if subject in fields(hint) else ': '}{complaint}"


def _near_value(path: list[str], value: Any, hint: Any) -> str:
    if isinstance(value, dict | list):
        return ""
    key = _dotted(path)
    if variants(hint):
        return _in_table(key, value, hint)
    if listed := listed_kinds(hint):
        near = pattern_near(str(value), listed)
        return f"{key}={quote(near)}" if near else ""
    kinds = [get_origin(kind) or kind for kind in alternatives(hint)]
    if dict in kinds:
        return _in_free_table(key, value, hint)
    if kinds in ([tuple], [list]) and _takes(items(hint), value):
        return f"{key}={quote(_in_line([value]))}"
    if not isinstance(value, str):
        return ""
    near = difflib.get_close_matches(value, re.split(r", | or ", allowed(hint)), n=1)
    return f"{key}={near[0]}" if near else ""


def _in_table(key: str, value: Any, hint: Any) -> str:
    """What to type for a plain value where a table is expected: the key in it that it was most likely meant for."""
    if value in map(tag, variants(hint)):
        return f"{key}.kind={value}"
    below = {name: one for name, one in fields(hint).items() if name != "kind"}
    for name, one in below.items():
        if value in map(tag, variants(one)):
            return f"{key}.{name}.kind={value}"
    ordered = sorted(below, key=lambda name: _USUAL.index(name) if name in _USUAL else len(_USUAL))
    taken = [name for name in ordered if _takes(below[name], value)]
    usual = [name for name in ordered if name in _USUAL]
    return f"{key}.{taken[0]}={_as_typed(value)}" if taken else f"{key}.{usual[0]}=..." if usual else ""


def _in_free_table(key: str, value: Any, hint: Any) -> str:
    """The same where the names in the table are free; an annotation may have an example of one."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    examples = [one for note in notes if isinstance(note, msgspec.Meta) for one in note.examples or ()]
    name, held = next(iter(examples), "NAME"), items(hint)
    if variants(held):
        return _in_table(f"{key}.{name}", value, held)
    return f"{key}.{name}={_as_typed(value)}" if _takes(held, value) else f"{key}.{name}=..."


def _takes(hint: Any, value: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _dotted(path: Sequence[str]) -> str:
    return ".".join(path)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _value_at(plain: Any, path: Sequence[str]) -> Any:
    for name in path:
        if isinstance(plain, dict) and name in plain:
            plain = cast(Plain, plain)[name]
        elif isinstance(plain, list) and name.isdigit():
            plain = cast("list[Any]", plain)[int(name)]
    return plain


def _assign(plain: Plain, path: Sequence[str], value: Any) -> None:
    *above, leaf = path
    for name in above:
        below = plain.setdefault(name, {})
        if not isinstance(below, dict):
            what = "a list, and is set whole" if isinstance(below, list) else f"the plain value {below!r}"
            raise ConfigError(f"{_dotted(path)!r} goes below {name!r}, which is {what}")
        plain = cast(Plain, below)
    if leaf == "kind" and plain.get("kind") != value:
        plain.clear()  # another variant: its own defaults, not the last one's values
    plain[leaf] = value


def _value(text: str, hint: Any) -> Any:
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


def _leaves(plain: Plain, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict):
            yield from _leaves(cast(Plain, value), f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in cast(Plain, value).items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in cast("list[Any]", value)]
    return value
