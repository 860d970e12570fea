"""Configs are values: frozen, written as TOML, changed by dotted overrides, compared by digest."""

import hashlib
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, cast, dataclass_transform, get_origin

import msgspec
import tomli_w

from thetahat.core.config.complaints import complain, not_below, unknown_key
from thetahat.core.config.typed import typed, value_of
from thetahat.core.errors import ConfigError
from thetahat.core.schema import alternatives, fields, hint_at, items, tag, variants


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The base of every config: immutable, and an unknown key is an error. Variants are tagged with `kind`.

    A value that may be None is None by default, since TOML has no null: what is left out is None.
    """


Some = TypeVar("Some", bound=Config)
Plain = dict[str, Any]


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
        complain(error, plain, kind)


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

    Values are TOML, or text where they are not; `none` unsets. An item of a list is named by its number from 0,
    `model.layers.0.kind=latent`, and is set behind the list.
    """
    plain, kind = to_plain(config), type(config)
    given: set[tuple[str, ...]] = set()
    for path, text in sorted(map(_split, pairs), key=lambda pair: _turn(pair[0])):
        _check_key(path, kind, text)
        is_whole = any(tuple(path[:depth]) in given for depth in range(1, len(path)))
        _assign(plain, path, value_of(text, hint_at(kind, path)), kind, corrects=is_whole)
        given.add(tuple(path))
    return from_plain(plain, kind)


def _turn(path: Sequence[str]) -> tuple[bool, int]:
    """When a key is set: items of lists behind these; whole items, then kinds from above, then all else."""
    is_in_list = any(map(str.isdigit, path))
    if path[-1].isdigit():
        return is_in_list, 0
    return is_in_list, 1 if path[-1] == "kind" else 2


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
    return [f"{key}={typed(value)}" for key, value in _between(to_plain(ours), to_plain(theirs), type(ours))]


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


def settings(pairs: Sequence[str], kind: type[Config]) -> dict[str, Any]:
    """Each key that KEY=VALUE pairs set, with its value; a table counts as its keys."""
    values = [(".".join(path), value_of(text, hint_at(kind, path))) for path, text in map(_split, pairs)]
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
            raise unknown_key(path, depth, sorted(known), (root, value))
        hint = known.get(name, items(hint))


def _check_keys(plain: Plain, hint: Any, above: tuple[str, ...], root: Any) -> None:
    known, held = fields(hint), items(hint)
    for name, value in plain.items():
        if name not in known and held is None:
            raise unknown_key((*above, name), len(above), sorted(known), (root, value))
        if isinstance(value, dict):
            _check_keys(cast(Plain, value), known.get(name, held), (*above, name), root)


def _assign(plain: Plain, path: Sequence[str], value: Any, root: Any, *, corrects: bool) -> None:
    """Sets a value; where it `corrects` what was given with it, another kind leaves the other keys as they are."""
    *above, leaf = path
    place: Any = plain
    for depth, name in enumerate(above):
        if isinstance(place, dict):
            cast(Plain, place).setdefault(name, {})
        place = _below(place, path, depth, root)
    if isinstance(place, list):
        _below(cast("list[Any]", place), path, len(above), root)
        place[int(leaf)] = value
        return
    if not isinstance(place, dict):
        raise not_below(path, len(above), place, root)
    table = cast(Plain, place)
    if leaf == "kind" and table.get("kind") != value and not corrects:
        table.clear()  # another variant: its own defaults, not the last one's values
    table[leaf] = value


def _below(place: Any, path: Sequence[str], depth: int, root: Any) -> Any:
    """What a table or a list has under a name, or a number."""
    name = path[depth]
    if isinstance(place, dict) and name in place:
        return cast(Plain, place)[name]
    listed = cast("list[Any]", place) if isinstance(place, list) else []
    if name.isdigit() and int(name) < len(listed):
        return listed[int(name)]
    raise not_below(path, depth, place, root)


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
