"""An environment of jinja2 whose templates keep what is known of texts: see `traced`."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, cast, final

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.environment import Environment
from jinja2.runtime import Context

if TYPE_CHECKING:
    from thetahat.data.chat.traced import Traced, followed, joined, placed, plain, texts_of, traced
else:  # beside this file, in a process that knows no other part of the package
    from traced import Traced, followed, joined, placed, plain, texts_of, traced

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')  # of a JSON text


@final
class Fields(dict[str, Any]):
    """The fields of a message, which keep account of those that were read."""

    def __init__(self, fields: Mapping[str, Any], read: set[str]) -> None:
        super().__init__(fields)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The value, if there is one."""
        self._read.add(name)
        return super().get(name, default)

    def items(self) -> Any:
        """All of them, which are then read."""
        self._read.update(self)
        return super().items()

    def values(self) -> Any:
        """All of them, which are then read."""
        self._read.update(self)
        return super().values()


@final
class Trace:
    """Numbers the characters of what a template is given, in the order in which they stand there."""

    def __init__(self) -> None:
        self.end = 0

    def message(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields of a message; their names and the role are the template's own words."""
        return {name: given if name == "role" else self.of(given) for name, given in fields.items()}

    def of(self, value: Any) -> Any:
        """The value with every text in it followed."""
        if isinstance(value, str):
            start, self.end = self.end, self.end + len(value)
            return traced(value, [(0, len(value), start)] if value else [])
        if isinstance(value, dict):
            some = cast("dict[str, Any]", value)
            return {self.of(name): self.of(below) for name, below in some.items()}
        if isinstance(value, list):
            return [self.of(below) for below in cast("list[Any]", value)]
        return value


def to_json(value: Any, text: str, *, sort_keys: bool) -> str:
    """The JSON of a value, with its runs; `text` is that JSON."""
    pieces: list[str] = []
    place = 0
    for found, given in zip(_STRINGS.finditer(text), _leaves(value, sort_keys=sort_keys), strict=False):
        if isinstance(given, Traced):
            inside = found[0][1:-1]
            widths = [len(json.dumps(letter, ensure_ascii=False)) - 2 for letter in plain(given)]
            if sum(widths) != len(inside):
                widths = [len(json.dumps(letter)) - 2 for letter in plain(given)]
            pieces += [text[place : found.start() + 1], placed(inside, given, widths)]
            place = found.end() - 1
    return joined([*pieces, text[place:]])


def _leaves(value: Any, *, sort_keys: bool) -> Iterator[Any]:
    """The keys and texts of a value in the order in which JSON writes them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        items = list(cast("dict[Any, Any]", value).items())
        for name, below in sorted(items) if sort_keys else items:
            yield name
            yield from _leaves(below, sort_keys=sort_keys)
    elif isinstance(value, list | tuple):
        for below in cast("list[Any]", value):
            yield from _leaves(below, sort_keys=sort_keys)


def concatenated(values: Iterable[Any]) -> str:
    """What `~` and a macro make of values."""
    return joined(map(str, values))


@final
class TracingCode(CodeGenerator):
    """Code in which `~` keeps what is known of its texts."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: D102, N802 - jinja2 names it so
        self.write("environment.concat((")
        for one in node.nodes:
            self.visit(one, frame)
            self.write(", ")
        self.write("))")


def tracing(environment: Environment, to_json_text: Callable[..., str]) -> None:
    """Lets the filters of an environment keep what is known of texts."""
    environment.code_generator_class = TracingCode
    environment.concat = concatenated  # type: ignore[assignment]
    environment.finalize = _shown
    for name, change in environment.filters.items():
        environment.filters[name] = _keeping(change)

    def tojson(value: Any, *given: Any, **named: Any) -> str:
        text = to_json_text(value, *given, **named)
        return to_json(value, text, sort_keys=bool(named.get("sort_keys", given[3:4] == (True,))))

    environment.filters["tojson"] = tojson


def _keeping(change: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a template that gives up no runs where it makes a text of texts."""

    @wraps(change)
    def keep(*given: Any, **named: Any) -> Any:
        given = tuple(list(value) if isinstance(value, Iterator) else value for value in given)
        return kept(change, given, named)

    return keep


def kept(change: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """What a function gives, followed where it is a text made of texts."""
    found = change(*given, **named)
    if (
        not isinstance(found, str | bytes)
        or isinstance(found, Traced)
        or not any(True for _ in texts_of((given, named)))
    ):
        return found
    if type(found) is not str:
        raise TypeError(f"{type(found).__name__} is not followed")

    def again(some: Any, more: Any) -> Any:
        return change(*some, **more)

    return followed(again, given, named)


def called(call: Callable[..., Any], context: Context, function: Any, given: Any, named: Any) -> Any:
    """What a call in a template gives; the methods of texts are followed."""
    method = getattr(function, "__wrapped__", function)  # the sandbox wraps `format`
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if type(owner) is str:
        return kept(partial(call, context, function), given, named)
    if isinstance(owner, Traced) and name not in {*Traced.__dict__, "format", "format_map"}:

        def again(text: str, *some: Any, **more: Any) -> Any:
            return call(context, getattr(text, name), *some, **more)

        return kept(again, (owner, *given), named)
    return call(context, function, *given, **named)


def _shown(value: Any) -> Any:
    """What is written of a value: a list or an object as Python shows it."""
    return kept(str, (value,), {}) if isinstance(value, dict | list | tuple) else value
