"""The fields of a config.json, each mapped onto a key of our config, in both directions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

from thetahat.core.errors import ModelError
from thetahat.model.config import ModelConfig

Plain = dict[str, Any]
LARGEST = 2**17  # no size of a model is as large, and nothing is built from what is

MOST_LAYERS = 2**12


class MisfitError(Exception):
    """A config that a family has no fields for."""


@final
class Fields:
    """A config.json as it is read: it keeps account of what was asked for, so that what nobody asked for is known."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self.plain = plain
        self.known: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field; the default where it is absent or null."""
        self.known.add(name)
        value = self.plain.get(name)
        return default if value is None else value

    def need(self, name: str) -> Any:
        """The value of a field that every config of the family has."""
        value = self.get(name)
        if value is None:
            raise ModelError(f"config.json has no {name}, without which the shape of the model is unknown")
        return value

    def number(self, name: str, default: int | None = None, most: int = LARGEST - 1) -> int:
        """The value of a field that is an integer from 1 to `most`; with a default it may be absent or null."""
        value = self.need(name) if default is None else self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            raise ModelError(f"config.json: {name}={value!r}", allowed=f"an integer from 1 to {most}")
        return value

    def or_default(self, name: str, default: Any) -> Any:
        """The value of a field, null included; the default only where it is absent."""
        self.known.add(name)
        return self.plain.get(name, default)


@runtime_checkable
class Part(Protocol):
    """Fields of theirs that belong together, and what they are of ours, by dotted key."""

    def read(self, fields: Fields) -> Plain:
        """Our keys and values."""
        ...

    def write(self, config: ModelConfig) -> Plain:
        """Their fields and values; MisfitError where there are none."""
        ...


@final
@dataclass(frozen=True)
class Value:
    """One field of theirs for one key of ours, or one for several that are always equal, or the other way round."""

    theirs: str | Sequence[str]
    ours: str | Sequence[str]
    default: Any = None  # of an absent field: a value, or a function of all fields
    choices: Mapping[Any, Any] | None = None  # their value -> ours; the first of several is written
    also: str = ""  # a field that is written beside it, and never read

    def read(self, fields: Fields) -> Plain:  # noqa: D102
        names = _listed(self.theirs)
        default = self.default(fields) if callable(self.default) else self.default
        values = [fields.need(name) if default is None else fields.get(name, default) for name in names]
        if any(value != values[0] for value in values):
            raise refused(names[-1], values[-1], f"{values[0]!r}, which is {names[0]}")
        value = values[0]
        if isinstance(value, int) and value >= LARGEST:
            raise refused(names[0], value, f"less than {LARGEST}")
        if self.choices is not None:
            if not isinstance(value, str | int) or value not in self.choices:
                raise refused(names[0], value, ", ".join(map(str, self.choices)))
            value = self.choices[value]
        return dict.fromkeys(_listed(self.ours), value)

    def write(self, config: ModelConfig) -> Plain:  # noqa: D102
        value = value_at(config, _listed(self.ours)[0])
        if self.choices is not None:
            if value not in self.choices.values():
                raise MisfitError(f"{_listed(self.ours)[0]}={value}")
            value = next(theirs for theirs, ours in self.choices.items() if ours == value)
        return dict.fromkeys([*_listed(self.theirs), *filter(None, [self.also])], value)


@final
@dataclass(frozen=True)
class Fixed:
    """Keys of ours that have one value throughout the family, and no field."""

    ours: Mapping[str, Any]

    def read(self, fields: Fields) -> Plain:  # noqa: D102
        return dict(self.ours)

    def write(self, config: ModelConfig) -> Plain:  # noqa: D102
        return {}


@final
@dataclass(frozen=True)
class Pair:
    """What is no renaming: a function each way."""

    reads: Callable[[Fields], Plain]
    writes: Callable[[ModelConfig], Plain] = lambda config: {}

    def read(self, fields: Fields) -> Plain:  # noqa: D102
        return self.reads(fields)

    def write(self, config: ModelConfig) -> Plain:  # noqa: D102
        return self.writes(config)


def value_at(config: Any, path: str) -> Any:
    """The value of a dotted key; MisfitError where a choice was made that has no such key."""
    for name in path.split("."):
        if not hasattr(config, name):
            raise MisfitError(f"there is no {path}")
        config = getattr(config, name)
    return config


def nested(flat: Mapping[str, Any]) -> Plain:
    """Dotted keys as nested dictionaries; a dictionary given for a whole table is filled up by the keys below it."""
    root: Plain = {}
    for path, value in flat.items():
        *above, leaf = path.split(".")
        place = root
        for name in above:
            place = place.setdefault(name, {})
        place[leaf] = dict(value) if isinstance(value, dict) else value
    return root


def refused(name: str, value: Any, allowed: str) -> ModelError:
    """The error for a field of a value that is not supported."""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return ModelError(f"config.json: {name}={shown} is not supported", allowed=allowed)


def inverse(value: float) -> float:
    """The shortest number x with 1 / x == value, or the nearest there is."""
    found = 1 / value
    near = [float(f"{found:.{digits}g}") for digits in range(1, 17)]
    return next((x for x in (*near, found) if 1 / x == value), found)


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)
